"""GPUs of one machine: each is given to one run at a time, whoever starts runs and however they end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from local_runs import (
    SUCCEED,
    WAIT_FOR_GO,
    backend_for,
    pid_of,
    plan_of,
    planned,
    python,
    request,
)

from orchestrator.backends.base import ContainerRequest
from orchestrator.backends.docker import DockerBackend
from orchestrator.backends.local import LocalBackend
from orchestrator.errors import LongshoreError
from orchestrator.gpus import Gpu, Leases, visible_gpus
from orchestrator.jobfile.job import Resources
from orchestrator.runs import RunStore
from orchestrator.states import RunState
from orchestrator.submit import execute
from orchestrator.watch import refresh
from tests.waiting import eventually

INSTALLED = (("0", "GPU-a"), ("1", "GPU-b"))
SITE = ("local", "default")
# Holds each of its GPUs for a moment, and says so where another run holds it too.
HOLD = """
for gpu in ${CUDA_VISIBLE_DEVICES//,/ }; do
  mkdir "../gpu-$gpu" || echo "$gpu" >>../clashes
done
echo "$CUDA_VISIBLE_DEVICES" >>../held
sleep 0.1
for gpu in ${CUDA_VISIBLE_DEVICES//,/ }; do rmdir "../gpu-$gpu"; done
"""


def on(visible: str):
    backend = LocalBackend(environment=os.environ | {"CUDA_VISIBLE_DEVICES": visible})
    return lambda name, profile: backend


def submit(store: RunStore, backend: LocalBackend, *gpus: int, script: str = WAIT_FOR_GO + SUCCEED) -> None:
    """Runs r0, r1 … that want so many GPUs each."""
    for number, wanted in enumerate(gpus):
        plan = plan_of(store.home, planned(store.home, f"r{number}", script, gpus=wanted))
        execute(plan, store, backend, {})


def let_go(store: RunStore, run_id: str) -> None:
    (store.home / run_id / "go").touch()
    eventually(lambda: (store.home / run_id / "SUCCESS").exists())


def environment_of(run_dir: Path) -> dict[str, str]:
    environ = Path(f"/proc/{pid_of(run_dir)}/environ")
    while not (words := environ.read_text()):  # for the moment in which one program becomes the next
        time.sleep(0.01)
    return dict(word.split("=", 1) for word in words.split("\0") if "=" in word)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, [Gpu("here/GPU-a", "0"), Gpu("here/GPU-b", "1")]),
        ("1", [Gpu("here/GPU-b", "1")]),
        ("GPU-b, 0", [Gpu("here/GPU-b", "GPU-b"), Gpu("here/GPU-a", "0")]),
        ("0,-1,1", [Gpu("here/GPU-a", "0")]),
        ("", []),
        ("-1", []),
    ],
)
def test_what_is_inherited_says_which_gpus_there_are(visible, names):
    assert list(visible_gpus(visible, INSTALLED, "here")) == names


def test_no_run_of_many_gpus_waits_for_ever_behind_small_ones():
    pools = {SITE: [Gpu(f"here/{n}", str(n)) for n in range(2)]}
    leases = Leases(pools, {"here/0"})
    assert leases.take(SITE, 2) is None
    assert leases.take(SITE, 1) is None
    assert leases.take(SITE, 0) == ()
    assert Leases(pools, {"here/0"}).take(SITE, 1) == ("here/1",)


def test_sites_of_one_machine_share_its_gpus():
    gpus = [Gpu("here/0", "0")]
    leases = Leases({SITE: gpus, ("docker", "default"): gpus}, set())
    assert leases.take(SITE, 1) == ("here/0",)
    assert leases.take(("docker", "default"), 1) is None


def test_a_run_waits_for_a_gpu_that_another_one_has_and_sees_only_its_own(store: RunStore):
    submit(store, on("3,5")("local", ""), 1, 1, 1)
    assert [store.get(f"r{n}").state for n in range(3)] == [RunState.SETTING_UP, RunState.SETTING_UP, RunState.QUEUED]
    assert [environment_of(store.home / f"r{n}")["CUDA_VISIBLE_DEVICES"] for n in range(2)] == ["3", "5"]
    let_go(store, "r1")
    refresh(store, on("3,5"))
    assert environment_of(store.home / "r2")["CUDA_VISIBLE_DEVICES"] == "5"


def test_a_killed_run_has_its_gpu_no_more(store: RunStore):
    submit(store, on("0")("local", ""), 1, 1)
    os.killpg(pid_of(store.home / "r0"), signal.SIGKILL)
    eventually(lambda: refresh(store, on("0")) or store.get("r1").state is RunState.SETTING_UP)
    assert store.get("r0").state is RunState.FAILED


def test_a_run_that_wants_more_gpus_than_there_are_says_so_and_holds_nobody_up(store: RunStore):
    with pytest.raises(LongshoreError, match=r"r0 asks for 2 GPUs, and there are 1 here; lower resources\.gpus"):
        submit(store, on("0")("local", ""), 2)
    execute(plan_of(store.home, planned(store.home, "other", SUCCEED, gpus=1)), store, on("0")("local", ""), {})
    assert store.get("other").state is RunState.SETTING_UP


def test_without_gpus_none_are_asked_for(store: RunStore):
    submit(store, on("")("local", ""), 1, 1)
    assert [environment_of(store.home / f"r{n}")["CUDA_VISIBLE_DEVICES"] for n in range(2)] == ["", ""]


def test_many_processes_at_once_never_give_a_gpu_to_two_runs(store: RunStore, home: Path):
    runs = [planned(home, f"r{n:02d}", HOLD + SUCCEED, gpus=1 + n % 2) for n in range(12)]
    store.add_plan(plan_of(home, *runs, sweep="r"))
    for run in runs:
        run.run_dir.mkdir()
        (run.run_dir / "setup-and-run.sh").write_text(run.files["setup-and-run.sh"])
    store.enqueue([run.run_id for run in runs])
    code = (
        "from orchestrator.backends.local import LocalBackend\n"
        "from orchestrator.waiting import wait\n"
        "os.environ['CUDA_VISIBLE_DEVICES'] = '0,1,2'\n"
        "backend, store = LocalBackend(leftover_grace=1.0), RunStore(Path(sys.argv[1]))\n"
        "wait(store, lambda *_: backend, [r.run_id for r in store.list()], timeout=60, interval=0.01)\n"
    )
    starters = [python(code, home) for _ in range(5)]
    assert [starter.communicate(timeout=120)[1] for starter in starters] == [""] * 5
    assert {record.state for record in store.list()} == {RunState.SUCCEEDED}
    assert not (home / "clashes").exists()
    held = [line.split(",") for line in (home / "held").read_text().splitlines()]
    assert sorted(map(len, held)) == [1] * 6 + [2] * 6
    assert {gpu for gpus in held for gpu in gpus} == {"0", "1", "2"}


def test_a_container_gets_its_gpus_by_name(tmp_path: Path):
    backend = DockerBackend(environment={"CUDA_VISIBLE_DEVICES": "4,6"})
    container = ContainerRequest("image:1", Resources(gpus=1))
    base = request(tmp_path / "r", gpus=1)
    launch = backend.plan(type(base)(**{**vars(base), "container": container}))
    [first, second] = backend.gpus(launch)
    placed = backend.on_gpus(launch, [second.name])
    assert placed.container["HostConfig"]["DeviceRequests"] == [
        {"Driver": "", "DeviceIDs": ["6"], "Capabilities": [["gpu"]]}
    ]
    elsewhere = DockerBackend(environment={"CUDA_VISIBLE_DEVICES": "4,6", "DOCKER_HOST": "ssh://gpu1"})
    assert elsewhere.gpus(launch) == ()
    assert first.visible == "4"
    assert backend_for("local").gpus(launch) == LocalBackend().gpus(launch)
