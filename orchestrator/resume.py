"""Have runs that have ended go on, from their newest checkpoint or another one of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.jobfile.overrides import override_words
from orchestrator.runs import RunRecord, RunStore
from orchestrator.spec import load_job
from orchestrator.states import RunState
from orchestrator.sweep_files import unpack
from trainer.run_dir import RunDir


def resume(store: RunStore, record: RunRecord, settings: Sequence[str], checkpoint: str | None) -> None:
    """Put a run that has ended back into the queue.

    Args:
        store: The registry.
        record: The run.
        settings: Trainer settings `KEY=VALUE` for it from now on.
        checkpoint: Of the run, to go on from: a name in its `checkpoints/`, or a path. None for the newest.

    Raises:
        UsageError: It has not ended, has succeeded and gets nothing more to do, or has no such checkpoint.
        SpecError: A setting is wrong.
    """
    run_dir = RunDir(record.run_dir)
    if record.state is RunState.SUCCEEDED and not settings:
        raise UsageError(f"{record.run_id} has succeeded; give it more to do: optimization.total_optim_steps=NUMBER")
    if lost := store.standing(record.after).lost:
        raise UsageError(f"{record.run_id}: {lost}; resume that one first, or submit the job without `after`")
    unpack([record.run_dir])
    words = _words(run_dir, settings)
    folder = None if checkpoint is None else _checkpoint(run_dir, checkpoint)
    store.resume(record.run_id, words)
    if folder is not None:
        run_dir.point_checkpoint("latest", folder.name)  # where the trainer goes on
    for mark in (run_dir.success, run_dir.stop):  # the trainer starts nothing where they are
        mark.unlink(missing_ok=True)


def _words(run_dir: RunDir, settings: Sequence[str]) -> tuple[str, ...]:
    """Settings as the trainer takes them, checked against the run's own job."""
    if not settings:
        return ()
    train = load_job(run_dir.job, overrides=settings).train
    return override_words({key: train[key] for key in dict.fromkeys(word.partition("=")[0] for word in settings)})


def _checkpoint(run_dir: RunDir, name: str) -> Path:
    folder = (run_dir.checkpoints / name).resolve()  # a path stays what it is
    if folder.parent != run_dir.checkpoints.resolve() or not folder.is_dir():
        names = sorted(path.name for path in run_dir.checkpoints.glob("step_*")) or ["none"]
        raise UsageError(f"--from {name}: {run_dir.root.name} has no such checkpoint; it has {', '.join(names)}")
    return folder
