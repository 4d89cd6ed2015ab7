"""steve: `job`, `cp` and `step`, typed here or on a login node. Runs of a sweep share allocations.

What finds an attempt again is the submission's folder on the host (`orchestrator.remote.submission`): a process of the
host's allocates, copies, sets up and starts, and writes down how far it has come. From then on everything is asked by
steps, one a look for each allocation, and brought here. Nobody but whoever looks releases an allocation.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from orchestrator.backends.base import Launch, LaunchRequest, Observation, Place, in_folder
from orchestrator.backends.steve.commands import TURNS, steve_commands, with_words
from orchestrator.backends.steve.outcomes import End, end_of, handed_back, outcome
from orchestrator.backends.steve.steps import Life, StepHost
from orchestrator.backends.steve.submissions import COMMAND_TIMEOUT, Phase, Submissions, here_of
from orchestrator.backends.steve.turns import Turn, entry_of, in_turn, last_turn, read_turn
from orchestrator.errors import BackendError, UsageError
from orchestrator.hosts import Host, LocalHost
from orchestrator.jobfile.quantities import duration_seconds
from orchestrator.profile import Assumptions, Profile
from orchestrator.remote.mirror import AT_ONCE, fetch_logs, fetch_markers
from orchestrator.remote.transfer import What, pull
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import RunDir, write_atomically

RELEASE = ("scancel", "{job_id}")
BIRTH = 60  # seconds from a detached step's start to its first line
LOOK = 0.5  # seconds between two looks while a run is being cancelled
NEVER = Observation(RunState.CANCELLED, message="before it had begun")
WAITING, SETTING_UP = {"unknown", "allocating", "waiting"}, {"copying", "setting-up", "starting"}


@dataclass
class SteveBackend:
    """One cluster behind steve. Handles are `JOB:ATTEMPT`, and `JOB:ATTEMPT:RUN` for a run of a sweep.

    Attributes:
        host: Where steve is typed.
        assume: What is taken for granted of it.
        shared: Folder that outlives allocations, under one path in all of them; None where there is none.
        commands: What is typed instead of `steve`; `release` and `state`, with {job_id} in their words.
    """

    name: ClassVar[str] = "steve"
    queues: ClassVar[bool] = True

    host: Host = field(default_factory=LocalHost)
    assume: Assumptions = field(default_factory=Assumptions)
    shared: Path | None = None
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def at(cls, profile: Profile) -> SteveBackend:
        """The cluster of a profile.

        Raises:
            UsageError: The profile lacks something.
        """
        assume = profile.assume
        paths = {"shared": profile.shared, "assume.folder": assume.folder, "assume.staging": assume.staging}
        for key, path in paths.items():
            if path is not None and not path.startswith("/"):
                raise UsageError(f"profile {profile.name}: {key}: write an absolute path")
        host: Host = LocalHost()
        if profile.host is not None:
            if assume.staging is None:
                raise UsageError(f"profile {profile.name}: host needs assume.staging, a folder there")
            from orchestrator.remote.ssh import SshHost

            host = SshHost(profile.host, profile.jump, profile.key)
        return cls(host, assume, Path(profile.shared) if profile.shared else None, profile.commands)

    def plan(self, request: LaunchRequest) -> Launch:
        return Launch(request, steve_commands(request, self._steve, self.assume.folder))

    def again(self, launch: Launch, attempt: int, words: Sequence[str]) -> Launch:
        request = replace(launch.request, attempt=attempt, words=tuple(words))
        commands = launch.commands if request.place else with_words(launch.commands, words)
        return replace(launch, request=request, commands=commands)

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        request = launch.request
        here, name = here_of(request), entry_of(request.run_id, request.attempt)
        submitted = self._submissions(here).submit(name, [launch], secrets)
        turn = Turn(f"{submitted.job_id}:{request.attempt}", here, name)
        turn.note()
        return turn.handle

    def launch_sweep(self, launches: Sequence[Launch], secrets: Mapping[str, str]) -> dict[str, str]:
        place = launches[0].request.place
        if place is None:
            return {launch.request.run_id: self.launch(launch, secrets) for launch in launches}
        turns = self._submissions(here_of(launches[0].request)).share(launches, place, secrets)
        for turn in turns:
            turn.note()
        return {turn.run_dir.name: turn.handle for turn in turns}

    def poll(self, handles: Mapping[str, Path]) -> dict[str, Observation]:
        turns = [_turn(handle, run_dir) for handle, run_dir in handles.items()]
        seen = {turn.handle: end for turn in turns if (end := turn.end) is not None}
        going = [turn for turn in turns if turn.handle not in seen]
        if going:
            submissions = self._submissions(going[0].run_dir)
            phases = submissions.phases(list(dict.fromkeys(turn.submission for turn in going)))
            for together in _by_submission(going):
                seen |= self._look(together, phases[together[0].submission])
        return seen

    def cancel(self, handles: Mapping[str, Path], grace: timedelta) -> None:
        deadline = time.monotonic() + grace.total_seconds()
        going = [turn for handle, run_dir in handles.items() if (turn := _turn(handle, run_dir)).end is None]
        asked, problems = [], []
        for turns in _by_submission(going):
            steps = self._steps(turns)
            try:
                asked.append((turns, steps, self._ask(turns, steps)))
            except BackendError as error:
                problems.append(f"{', '.join(turn.run_dir.name for turn in turns)}: {error}")
        for turns, steps, heard in asked:
            with contextlib.suppress(BackendError):
                self._see_off(turns, steps, heard, deadline)
            # Where no step may run beside another one, nobody knows.
            unseen = Life.UNBORN if self.assume.overlap else Life.GONE
            lives = dict(zip((turn.entry for turn in turns), steps.lives, strict=False))
            begun = [turn for turn in turns if lives.get(turn.entry, unseen) in {Life.ALIVE, Life.GONE}]
            ended = {turn: outcome(RunDir(turn.run_dir), turn.attempt, "cancelled") for turn in begun}
            problems.append(self._let_go(dict.fromkeys(turns, NEVER) | ended))
        if any(problems):
            raise BackendError("; ".join(filter(None, problems)))

    def fetch(self, run_dirs: Sequence[Path]) -> None:
        turns = [turn for run_dir in run_dirs if (turn := last_turn(run_dir)) is not None and turn.end is None]
        for together in _by_submission(turns):
            with contextlib.suppress(BackendError):  # `poll` says when it is lost; what is here can be shown
                steps, here = self._steps(together), [turn.run_dir for turn in together]
                fetch_markers(steps, self._root, here)
                fetch_logs(steps, self._root, here)

    def place(self, run_dir: Path) -> Place | None:
        folder, turn = self._root / run_dir.name, last_turn(run_dir)
        if turn is not None and turn.end is None:
            return Place(self._steps([turn]), folder)
        return Place(self.host, folder) if self.shared is not None else None

    def execute(self, handle: str, run_dir: Path, command: Sequence[str], variables: Mapping[str, str]) -> int:
        steps = self._steps([_turn(handle, run_dir)])
        return steps.stream(in_folder(self._root / run_dir.name, command, variables))

    def _look(self, turns: Sequence[Turn], phase: Phase) -> dict[str, Observation]:
        """What is seen of attempts in one allocation, by handle."""
        job = turns[0].job_id
        if phase.name == "silent":
            return self._lost(turns, End(FailureClass.NODE_FAILURE, "it never took a copy"))
        if (end := self._end(turns[0])) is not None:
            return self._lost(turns, end)
        if phase.name in WAITING:
            waits = Observation(RunState.QUEUED, message=f"job {job} waits for its allocation")
            return {turn.handle: waits for turn in turns}
        if phase.name in SETTING_UP:
            begins = _next(turns)
            return {turn.handle: self._seen(turn, going=turn is begins) for turn in turns}
        steps = self._steps(turns, tidy=phase.age > BIRTH)
        try:
            fetch_markers(steps, self._root, [turn.run_dir for turn in turns])
            return self._look_inside(turns, steps, phase)
        except BackendError as error:
            return self._silence(turns, phase, str(error))

    def _look_inside(self, turns: Sequence[Turn], steps: StepHost, phase: Phase) -> dict[str, Observation]:
        """The same, where a step has answered; the markers of the attempts are here.

        Raises:
            BackendError: What has ended could not be brought here; it keeps its allocation for another look.
        """
        over: dict[Turn, Observation] = {}
        gone, going, begins = [], [], _next(turns)
        for turn, life in zip(turns, steps.lives, strict=True):
            if phase.name == "failed" or life is Life.GONE or (life is Life.UNBORN and phase.age > BIRTH):
                gone.append(turn)
            elif life is Life.WITHDRAWN:
                over[turn] = NEVER
            elif life is Life.RETURNED:
                over[turn] = handed_back(f"allocation {turn.job_id} had too little time left")
            elif life is Life.STRANDED and turn is not begins:
                over[turn] = handed_back(f"nobody was left in allocation {turn.job_id} to begin it")
            elif life is Life.STRANDED:
                over[turn] = outcome(RunDir(turn.run_dir), turn.attempt, "the detached step has begun nothing")
            elif life is not Life.WAITING or turn is begins:
                going.append(turn)
            if life in {Life.ALIVE, Life.GONE}:
                turn.note_begun()
        self._collect(steps, gone)
        reason = phase.message or "it ended without a word"
        for turn in gone:
            over[turn] = outcome(RunDir(turn.run_dir), turn.attempt, reason)
            if phase.name == "failed":  # the set-up was that of all
                reason = over[turn].message
        problem = self._let_go(over)
        self._clean_up(steps, gone)
        self._pull_sometimes(steps, going)
        for turn in turns:
            turn.note_answer()
        return {
            turn.handle: _with(over[turn], problem) if turn in over else self._seen(turn, going=turn in going)
            for turn in turns
        }

    def _seen(self, turn: Turn, *, going: bool) -> Observation:
        """An attempt that has not ended, by its markers; `going` if its turn has come."""
        if not going:
            return Observation(RunState.QUEUED, message=f"waits for its turn in allocation {turn.job_id}")
        run_dir = RunDir(turn.run_dir)
        attempt = max(run_dir.attempts(), default=turn.attempt)
        return Observation(RunState.RUNNING if run_dir.has_trained(attempt) else RunState.SETTING_UP, attempt=attempt)

    def _silence(self, turns: Sequence[Turn], phase: Phase, reason: str) -> dict[str, Observation]:
        """No step answers: because no second one may run, because steve has a bad minute, or because all is over."""
        if phase.name == "failed":
            return self._lost(turns, End(FailureClass.NODE_FAILURE, phase.message))
        waited = time.time() - min([turn.note_silence(reason) for turn in turns])
        if self.assume.overlap and waited > duration_seconds(self.assume.lost):
            return self._lost(turns, End(FailureClass.NODE_FAILURE, reason))
        return {}

    def _lost(self, turns: Sequence[Turn], end: End) -> dict[str, Observation]:
        """The allocation is gone, and with it what was not pulled of the attempt that went on in it, or was the next.

        The others are started anew elsewhere. One has to answer for it in any case: a cluster that loses every
        allocation would be asked for ever.
        """
        problem, answers = self._release(turns[0]), _next(turns)
        if self.shared is not None:
            with contextlib.suppress(BackendError):
                fetch_markers(self.host, self.shared, [turn.run_dir for turn in turns])
        message = f"allocation {turns[0].job_id} is lost: {end.reason}"
        seen = {
            turn: outcome(RunDir(turn.run_dir), turn.attempt, message, lost=end.failure_class)
            if turn.has_begun or turn is answers or RunDir(turn.run_dir).success.exists()
            else handed_back(message)
            for turn in turns
        }
        for turn, observation in seen.items():
            turn.note_end(observation)
        return {turn.handle: _with(observation, problem) for turn, observation in seen.items()}

    def _ask(self, turns: Sequence[Turn], steps: StepHost) -> list[str]:
        """Ask attempts to stop, and those that wait never to begin; the entries of those that have heard it.

        Raises:
            BackendError: Others keep the allocation, and some may begin in it all the same.
        """
        first, entries = turns[0], [turn.entry for turn in turns]
        submissions = self._submissions(first.run_dir)
        if first.entries:
            submissions.withdraw(first.submission, entries)
        else:
            submissions.halt(first.submission)
        try:
            return steps.stop(entries)
        except BackendError:  # there is no container yet, or it is released anyway
            phase = submissions.phases([first.submission])[first.submission]
            if first.leaves_some(turns) and phase.name not in WAITING:
                raise
            return []

    def _see_off(self, turns: Sequence[Turn], steps: StepHost, heard: list[str], deadline: float) -> None:
        """Wait until attempts have stopped that are to, and bring what they leave.

        Raises:
            BackendError: A step did not run.
        """
        alive: list[str] = []
        while True:
            deaf = [entry for entry in alive if entry not in heard]
            heard += steps.stop(deaf) if deaf else steps.run(("true",)).stdout.split()
            alive = [turn.entry for turn, life in zip(turns, steps.lives, strict=True) if life is Life.ALIVE]
            if not alive or time.monotonic() >= deadline:
                break
            time.sleep(LOOK)
        if alive and turns[0].entries:  # a single run ends with its allocation
            steps.end(alive)
        never = {Life.WAITING, Life.WITHDRAWN}
        here = [turn for turn, life in zip(turns, steps.lives, strict=True) if life not in never]
        fetch_markers(steps, self._root, [turn.run_dir for turn in here])
        self._collect(steps, here)

    def _pull_sometimes(self, steps: StepHost, turns: Sequence[Turn]) -> None:
        since = time.time() - duration_seconds(self.assume.pull)
        due = [turn for turn in turns if not turn.pulled.exists() or turn.pulled.stat().st_mtime < since]
        with contextlib.suppress(BackendError):  # the next look tries again
            self._collect(steps, due)
            for turn in due:
                write_atomically(turn.pulled, "", durable=False)

    def _collect(self, steps: StepHost, turns: Sequence[Turn]) -> None:
        """Bring all of runs that is worth keeping, but for their markers.

        Raises:
            BackendError: It could not be brought.
        """
        if turns:
            run_dirs = {turn.run_dir.name: turn.run_dir for turn in turns}
            fetch_logs(steps, self._root, list(run_dirs.values()))
            what = {What.METRICS} if self.shared is not None else {What.METRICS, What.LATEST}
            pull(steps, self._root, run_dirs, what)

    def _clean_up(self, steps: StepHost, turns: Sequence[Turn]) -> None:
        """Make room in the container for the runs that come."""
        if turns and self.shared is None and turns[0].leaves_some():
            with contextlib.suppress(BackendError):
                steps.run(("rm", "-rf", "--", *(str(self._root / turn.run_dir.name) for turn in turns)))

    def _let_go(self, over: Mapping[Turn, Observation]) -> str:
        """Note the end of attempts, and release their allocation if it has no others; why it could not be."""
        first, problem = next(iter(over), None), ""
        if first is None:
            return ""
        if is_last := not first.leaves_some(over):
            problem = self._release(first)
        for turn, seen in over.items():
            turn.note_end(seen)
        if not is_last and not first.leaves_some():  # somebody else has noted the end of the others meanwhile
            problem = self._release(first)
        return problem

    def _release(self, turn: Turn) -> str:
        """Give an allocation back; why it could not be, or nothing."""
        problem, submissions = "", self._submissions(turn.run_dir)
        submissions.halt(turn.submission)
        try:
            done = self.host.run(self._words("release", turn, RELEASE), timeout=COMMAND_TIMEOUT)
        except BackendError as error:
            problem = str(error)
        else:
            if done.exit_code != 0:
                problem = done.stderr.strip() or f"exit code {done.exit_code}"
        submissions.clear(turn.submission)
        return f"allocation {turn.job_id} could not be released: {problem}" if problem else ""

    def _end(self, turn: Turn) -> End | None:
        """How an allocation has ended; None while it stands, or nobody can tell."""
        if "state" not in self.commands:
            return None
        return end_of(self.host.run(self._words("state", turn, ()), timeout=COMMAND_TIMEOUT))

    def _steps(self, turns: Sequence[Turn], *, tidy: bool = False) -> StepHost:
        """The container of turns that share an allocation."""
        first = turns[0]
        return StepHost(
            self.host,
            self._steve,
            first.job_id,
            self._root,
            Path(self.assume.folder) / TURNS if first.entries else None,
            [turn.entry for turn in turns],
            self._submissions(first.run_dir).folder / first.submission / "pulled",
            tidy,
        )

    def _submissions(self, run_dir: Path) -> Submissions:
        """Those that a run's are among."""
        folder = run_dir.parent if self.assume.staging is None else Path(self.assume.staging)
        return Submissions(self.host, folder / "submissions", self._root, self.assume, self.shared is not None)

    @property
    def _root(self) -> Path:
        """Folder of all runs in a container."""
        return self.shared or Path(self.assume.folder) / "longshore"

    @property
    def _steve(self) -> tuple[str, ...]:
        return tuple(self.commands.get("steve", ("steve",)))

    def _words(self, name: str, turn: Turn, default: Sequence[str]) -> tuple[str, ...]:
        return tuple(word.replace("{job_id}", turn.job_id) for word in self.commands.get(name, default))


def _turn(handle: str, run_dir: Path) -> Turn:
    attempt = int(handle.split(":")[1])
    return read_turn(run_dir, attempt) or Turn(handle, run_dir, entry_of(run_dir.name, attempt))


def _by_submission(turns: Iterable[Turn]) -> list[list[Turn]]:
    """Turns of one allocation in order, as many as one command may name."""
    grouped: dict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        grouped[turn.submission].append(turn)
    ordered = [in_turn(group) for group in grouped.values()]
    return [group[start : start + AT_ONCE] for group in ordered for start in range(0, len(group), AT_ONCE)]


def _next(turns: Sequence[Turn]) -> Turn | None:
    """The one that is about to begin in an allocation where nothing has begun."""
    return turns[0] if turns[0].is_next else None


def _with(seen: Observation, problem: str) -> Observation:
    """What was seen, and what went wrong besides."""
    return replace(seen, message="; ".join(filter(None, [seen.message, problem])))
