"""TorchRL's DreamerV3 learner learns, is as large as the trainer's, and is measured beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchrl.modules import RSSMRolloutV3

from benchmarks.reference_v3 import Batch, FixedBatches, Mode, V3Learner, main, make_v3_learner, measure
from benchmarks.trainer_parts import learner_config, noise_agent, noise_learner

CPU = torch.device("cpu")
OBSERVATION, ACTION = 5, 2
TINY = (
    "agent.world_model.deter=16",
    "agent.world_model.blocks=2",
    "agent.world_model.stochastic=4",
    "agent.world_model.hidden=8",
    "agent.world_model.units=8",
    "agent.world_model.bins=15",
    "agent.behaviour.imagination_horizon=2",
    "agent.optimizer.warmup=0",
)
BATCH = Batch(sequences=3, length=4, overrides=TINY)
EAGER = Mode(None, captured=False)


def small_learner(*, scope: str | None = None, overrides: tuple[str, ...] = ()) -> V3Learner:
    return make_v3_learner(
        OBSERVATION,
        ACTION,
        CPU,
        sequences=BATCH.sequences,
        length=BATCH.length,
        compile=scope is not None,
        capture=False,
        scope=scope or "step",
        overrides=(*TINY, *overrides),
    )


def test_a_step_trains_every_network_and_moves_the_slow_critic():
    learner = small_learner()
    before = {name: weight.clone() for name, weight in learner.loss.named_parameters()}
    slow = [weight.clone() for weight in learner.loss.value_loss.target_value_model_params.values(True, True)]
    for _ in range(3):  # under one nat of divergence a first step leaves the prior as it is
        losses = learner.step()
    assert all(torch.isfinite(loss).all() for loss in losses.values(True, True))
    still = [name for name, weight in learner.loss.named_parameters() if torch.equal(weight, before[name])]
    assert not still
    moved = learner.loss.value_loss.target_value_model_params.values(True, True)
    assert not all(map(torch.equal, moved, slow))


def test_all_losses_of_the_paper_are_trained():
    losses = small_learner().step()
    trained = {name for name in set(losses.keys()) if name.startswith("loss_")}
    assert trained == {
        "loss_model_reco",
        "loss_model_reward",
        "loss_model_continue",
        "loss_model_dynamic",
        "loss_model_representation",
        "loss_actor",
        "loss_value",
        "loss_replay_value",
    }
    assert losses["actor_entropy"] > 0


def test_the_world_model_learns_its_batches():
    torch.manual_seed(0)
    learner = small_learner(overrides=("agent.optimizer.lr=1e-2",))
    first, *_, last = (learner.step() for _ in range(25))
    assert last["loss_model_reco"] < 0.95 * first["loss_model_reco"]
    assert last["loss_model_reward"] < 0.9 * first["loss_model_reward"]


def test_it_is_as_large_as_the_trainers_but_for_padding():
    config = learner_config("dreamer_v3", 1024, 64)
    learner = make_v3_learner(48, 12, CPU, sequences=1, length=2, compile=False, capture=False)
    own = noise_agent(config, 48, 12, CPU)
    trained = sum(parameter.numel() for parameter in own.parameters() if parameter.requires_grad)
    sizes = config.agent.world_model
    padded_outputs = 2 * 1 + 7  # of two heads of 255 bins and one of one logit
    padding = padded_outputs * (sizes.units + 1) + 4 * sizes.hidden  # twelve actions go in as sixteen
    assert learner.parameters == 645_127
    assert trained == learner.parameters + padding


def test_the_recurrence_can_be_compiled():
    """Other keys than its own would take RSSMRolloutV3 off its fast path without a word."""
    (rollout,) = (module for module in small_learner().loss.modules() if isinstance(module, RSSMRolloutV3))
    assert rollout._fast_path
    assert rollout._scan_fn is None


def test_the_scan_is_compiled_alone_or_the_whole_step_is():
    scan, step = small_learner(scope="scan"), small_learner(scope="step")
    (rollout,) = (module for module in scan.loss.modules() if isinstance(module, RSSMRolloutV3))
    assert rollout._scan_fn is not None
    assert not scan.stepper.compile_train_step
    assert step.stepper.compile_train_step
    with pytest.raises(RuntimeError, match="warmup"):
        step.step()
    assert scan.parameters == step.parameters


def test_a_mode_falls_back_to_simpler_ones():
    assert [str(mode) for mode in Mode("step", captured=True).simpler()] == [
        "compiled + captured",
        "compiled scan + captured",
        "captured",
        "eager",
    ]
    assert list(EAGER.simpler()) == [EAGER]


def test_what_cannot_run_is_said_and_the_next_mode_measured(capsys: pytest.CaptureFixture[str]):
    figure = measure(CPU, BATCH, Mode(None, captured=True), steps=2, block=1)
    assert figure.mode == "eager"
    assert "TorchRL captured: RuntimeError: CUDA graph learner updates require CUDA" in capsys.readouterr().err
    assert figure.steps_per_s.steps == 2
    assert figure.prepare_s < 0.1
    assert figure.peak_memory_gib is None


def test_given_batches_come_in_turn_to_where_a_captured_step_reads():
    learner = noise_learner(learner_config("dreamer_v3", 12, 4, TINY), 3, 60, OBSERVATION, ACTION, CPU)
    drawn = [learner._batches.sample() for _ in range(2)]
    batches = FixedBatches(drawn)
    place = batches.sample().rows.action.data_ptr()
    for expected in (*drawn, drawn[0]):
        batches.before_step()
        batch = batches.sample()
        assert all(map(torch.equal, batch.rows.tensors(), expected.rows.tensors()))
        assert all(map(torch.equal, batch.context, expected.context))
        assert batch.rows.action.data_ptr() == place


def test_the_command_line_compares_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "figures.json"
    sizes = ["--batch", "12", "--length", "4", "--steps", "2", "--environments", "3", "--frames", "60"]
    main([*sizes, "--device", "cpu", "--json", str(path), *TINY])
    assert "longshore" in capsys.readouterr().out
    written = json.loads(path.read_text())
    assert [(figure["learner"], figure["data"]) for figure in written["figures"]] == [
        ("longshore", "fixed"),
        ("longshore", "replay"),
        ("torchrl", "fixed"),
    ]
    assert {figure["mode"] for figure in written["figures"]} == {"eager"}
    assert written["settings"]["device"] == "cpu"
    assert "torchrl" in written["versions"]


def test_frames_that_are_no_whole_sequences_are_refused():
    with pytest.raises(SystemExit, match="--batch"):
        main(["--batch", "10", "--length", "4", "--device", "cpu"])
