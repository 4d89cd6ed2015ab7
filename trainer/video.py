"""Videos of the first environments and of what the world model expects of them, in a hundredth of the time.

Frames are handed to ffmpeg by a thread. What cannot be filmed is said once, and never ends the training.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.agents.base import Agent
from trainer.compilation import compile_regions
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.base import Simulator

log = logging.getLogger(__name__)

SHARE = 0.01  # of the time of the collection that may go into clips
CONTEXT, OPEN_LOOP = 5, 45  # rows that the world model sees, and rows that it tells from the actions alone
FIRST_SECONDS = 10.0  # that the first clip is taken to cost, or more, as its first picture says; measured: 5
CAUTION = 2.0  # times what the clip before took, for a machine that others have use of too
SMALL = 128  # pixels; pictures below that are enlarged
FRAMES_PER_S = 20.0  # where the task does not say how long a step is
WAITING = 64  # frames on their way to ffmpeg
CLOSE_SECONDS = 10.0  # that the end of a run waits for a file
TRAINING = "training"  # kind of the clips that keep within the share

Images = NDArray[np.uint8]


def make_recorder(config: Config, simulator: Simulator, agent: Agent, folder: Path, seed: int) -> Recorder | None:
    """What films a simulator, where `video.enabled` wants it: by default what an agent sees through a camera.

    Args:
        config: The trainer's.
        simulator: Whose environments are filmed.
        agent: Whose world model goes on by itself.
        folder: For the files.
        seed: Of its latents.

    Raises:
        ConfigError: `video.enabled` is something else.
    """
    pixels = _image_key(agent)
    enabled = pixels is not None if config.video.enabled is None else config.video.enabled
    if not isinstance(enabled, bool):
        raise ConfigError(f"video.enabled: {enabled!r} is neither true, false nor null")
    if not enabled:
        return None
    count = min(config.video.environments, simulator.environments)
    return Recorder(simulator, agent, folder, count, config.video.length, seed)


def filmed(config: Config) -> int:
    """How many environments a simulator is to be able to film though no agent sees them.

    Args:
        config: The trainer's.
    """
    return int(config.video.environments) if config.video.enabled is True else 0


class Recorder:
    """Films clips while environments are stepped.

    Args:
        simulator: Whose first environments are filmed.
        agent: Whose world model goes on by itself.
        folder: For the files.
        count: How many environments, side by side.
        length: Steps of a clip.
        seed: Of the world model's latents.
        clock: Seconds.

    Attributes:
        frames: Collected so far, for the names of files.
        spent: Seconds that all clips have taken so far.
    """

    def __init__(
        self,
        simulator: Simulator,
        agent: Agent,
        folder: Path,
        count: int,
        length: int,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._simulator, self._agent, self._folder = simulator, agent, folder
        self._count, self._length, self._seed, self._clock = count, length, seed, clock
        self.frames = 0
        self._pixels = _image_key(agent)
        self._period = simulator.control.period if simulator.control is not None else 1 / FRAMES_PER_S
        self._since: float | None = None  # when filming might first have begun
        self.spent = 0.0  # seconds, of all clips so far
        self._estimate: float | None = None  # seconds, of one clip
        self._kind, self._forced = TRAINING, False
        self._films: list[_Film] = []  # that ffmpeg may still be busy with
        self._clip: _Clip | None = None
        self._broken = False

    def begin(self, kind: str) -> None:
        """Film the next steps whatever the share of the time, and no more than one clip until `end`."""
        self._kind, self._forced = kind, True

    def step(self, observation: Mapping[str, Tensor], action: Tensor, is_last: Tensor) -> None:
        """Take part in a step; most of the time that is a look at the clock.

        Args:
            observation: After any reset, `[N, …]` of each key.
            action: That led to it, `[N, A]`.
            is_last: Where the step ended an episode, `[N]`, bool.
        """
        if self._broken:
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        if self._clip is None and not self._may_begin(now):
            return
        try:
            self._film(observation, action, is_last)
        except Exception as error:
            self._leave_off(error)
        self.spent += self._clock() - now

    def end(self) -> None:
        """Finish the clip that is being filmed; later ones keep within the share of the time."""
        self._kind, self._forced = TRAINING, False
        self._finish()

    def close(self) -> None:
        """Finish, and wait for ffmpeg, a short while at most."""
        self.end()
        for film in self._films:
            film.wait(CLOSE_SECONDS)

    def _finish(self) -> None:
        clip, self._clip = self._clip, None
        if clip is None or self._broken:
            return
        begun = self._clock()
        try:
            clip.film.close()
            self._imagine(clip)
        except Exception as error:
            self._leave_off(error)
        self.spent += self._clock() - begun

    def _leave_off(self, error: Exception) -> None:
        self._broken = True
        log.warning("no videos from here on: %s: %s", type(error).__name__, " ".join(str(error).split()))

    def _open(self, name: str) -> _Film:
        film = _Film(self._folder / f"{name}.mp4", 1 / self._period)
        self._films = [*(other for other in self._films if not other.whole), film]
        return film

    def _may_begin(self, now: float) -> bool:
        """Whether another clip keeps within the share; nobody knows before the first frame what one costs."""
        assert self._since is not None
        if self._kind != TRAINING:
            return self._forced
        return self.spent + (self._estimate or 0.0) <= SHARE * (now - self._since)

    def _film(self, observation: Mapping[str, Tensor], action: Tensor, is_last: Tensor) -> None:
        begun = self._clock()
        images = self._seen(observation)
        if self._estimate is None:
            self._estimate = max(FIRST_SECONDS, (self._clock() - begun) * self._length)
            if not self._forced:
                return
        if self._clip is None:
            name, self._forced = f"{self._kind}-{self.frames:010d}", False
            self._clip = _Clip(name, self._open(name), self.spent)
        clip = self._clip
        clip.film.add(_row(images))
        if self._pixels is not None and len(clip.rows) < CONTEXT + OPEN_LOOP:
            first = slice(self._count)
            clip.rows.append(({key: value[first].clone() for key, value in observation.items()}, action[first].clone()))
            clip.ends.append(is_last[first].clone())
        clip.frames += 1
        if clip.frames == self._length:
            self._finish()
            self._estimate = CAUTION * (self.spent - clip.spent_before + self._clock() - begun)

    def _seen(self, observation: Mapping[str, Tensor]) -> Images:
        """Pictures `[K, H, W, 3]`: what the agent sees, else what the simulator's own camera does."""
        if self._pixels is not None:
            return _bytes(observation[self._pixels][: self._count])
        return self._simulator.render(self._count)

    def _imagine(self, clip: _Clip) -> None:
        """Film what the world model expects after a few rows, beside what happened: truth, model, difference."""
        if self._pixels is None or len(clip.rows) < 2 * CONTEXT:
            return
        model = self._agent.world_model
        compiled = model.compiled
        compile_regions(model, False)  # these few rows have shapes of their own, which take minutes to compile for
        try:
            truth, expected = self._open_loop(clip.rows, clip.ends)
        finally:
            compile_regions(model, compiled)
        film = self._open(f"{clip.name}-open-loop")
        for true, model in zip(truth, expected, strict=True):
            difference = np.abs(true.astype(np.int16) - model).astype(np.uint8)
            film.add(np.concatenate([_row(images) for images in (true, model, difference)]))
        film.close()

    @torch.no_grad()
    def _open_loop(
        self, rows: Sequence[tuple[Mapping[str, Tensor], Tensor]], ends: Sequence[Tensor]
    ) -> tuple[list[Images], list[Images]]:
        """What happened and what the world model made of it, row by row, `[K, H, W, 3]` each.

        It is told of the first rows what they show, and of the others the actions and where an episode began.
        """
        model, key = self._agent.world_model, self._pixels
        assert key is not None
        generator = torch.Generator(ends[0].device).manual_seed(self._seed)
        networks = model.images[model.image_keys.index(key)]
        state = self._agent.initial(self._count)
        truth, expected = [], []
        for number, ((observation, action), ended) in enumerate(zip(rows, ends, strict=True)):
            noise = model.rssm.latent.draw(self._count, generator=generator)
            observed = self._agent.advance(state, action, observation, ended | (number == 0), noise)
            told = ended | (number < CONTEXT)  # a new episode cannot be foreseen
            if told.all():
                state = observed
            else:
                imagined = model.rssm.imagine(state, action, noise)
                state = type(state)(
                    *(
                        torch.where(told.view(-1, *[1] * (seen.dim() - 1)), seen, dreamt)
                        for seen, dreamt in zip(observed, imagined, strict=True)
                    )
                )
            decoded = networks.decode(state.features()).float()
            truth.append(_bytes(observation[key]))
            expected.append(_bytes(decoded * 255 if networks.bytes else decoded))
        return truth, expected


class _Clip:
    """One that is being filmed."""

    def __init__(self, name: str, film: _Film, spent_before: float) -> None:
        self.name, self.film, self.spent_before = name, film, spent_before
        self.frames = 0
        self.rows: list[tuple[dict[str, Tensor], Tensor]] = []
        self.ends: list[Tensor] = []


class _Film:
    """An MP4 file that a thread writes by ffmpeg; it has its name only when it is whole."""

    def __init__(self, path: Path, frames_per_s: float) -> None:
        import imageio_ffmpeg  # what is missing is missed before the first frame

        self._ffmpeg, self._path, self._rate = imageio_ffmpeg, path, frames_per_s
        self._frames: queue.Queue[Images | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write, name="video", daemon=True)
        self._thread.start()

    def add(self, frame: Images) -> None:
        """Append a frame; one for which ffmpeg is too slow is left out."""
        with suppress(queue.Full):
            self._frames.put_nowait(frame)

    def close(self) -> None:
        """No more frames come. The file is there a little later."""
        self._frames.put(None)

    @property
    def whole(self) -> bool:
        """Whether the file is there, or will never be."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Until the file is there, or this long."""
        self._thread.join(seconds)

    def _write(self) -> None:
        begun = self._path.with_name(f".{self._path.name}.tmp")
        writer: Any = None
        try:
            while (frame := self._frames.get()) is not None:
                if writer is None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    height, width = frame.shape[:2]
                    writer = self._ffmpeg.write_frames(
                        str(begun),
                        (width, height),
                        fps=self._rate,
                        codec="libx264",
                        macro_block_size=2,
                        output_params=["-threads", "1", "-f", "mp4", "-movflags", "+faststart"],
                        ffmpeg_log_level="error",
                    )
                    writer.send(None)
                writer.send(np.ascontiguousarray(frame))
            if writer is not None:
                writer.close()
                begun.replace(self._path)
        except Exception as error:
            log.warning("%s: no video: %s: %s", self._path.name, type(error).__name__, error)
            while self._frames.get() is not None:  # whoever films goes on
                pass


def _image_key(agent: Agent) -> str | None:
    keys = agent.world_model.image_keys
    return keys[0] if keys else None


def _bytes(images: Tensor) -> Images:
    return images.clamp(0, 255).to(torch.uint8)[..., :3].cpu().numpy()


def _row(images: Images) -> Images:
    """Pictures side by side, small ones enlarged, with even sides as H.264 wants them: `[H, W, 3]`."""
    times = max(1, SMALL // images.shape[1])
    row = np.concatenate(list(images), axis=1).repeat(times, 0).repeat(times, 1)
    return np.pad(row, ((0, row.shape[0] % 2), (0, row.shape[1] % 2), (0, 0)))
