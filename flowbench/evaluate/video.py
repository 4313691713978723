"""Records the first episode of an environment as an .mp4 or .gif file."""

from __future__ import annotations

from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import suites
from flowbench.common.errors import UsageError, unknown
from flowbench.train.vecenv import Env

FORMATS: dict[str, dict[str, Any]] = {  # options of ffmpeg
    ".mp4": {},
    ".gif": {
        "codec": "gif",
        "pix_fmt_out": "pal8",
        "quality": None,
        # Each frame has its own palette, and half the size, because GIF compresses badly.
        "output_params": ["-vf", "scale=iw/2:-1,split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"],
    },
}
FRAMES_PER_SECOND = 30  # about: every n-th step is a frame, so that the video plays in real time


def check(path: Path) -> None:
    """Raise UsageError if no video can be written to `path`."""
    if path.suffix not in FORMATS:
        raise UsageError(f"--video {str(path)!r}: {unknown('suffix', path.suffix, FORMATS)}")
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"--video {str(path)!r}: there is no folder {str(path.parent)!r}, or the path is a folder")
    if find_spec("imageio_ffmpeg") is None:
        raise UsageError("--video needs imageio-ffmpeg; install it with: pip install -e '.[video]'")


def record(task: suites.Task, path: Path, on_step: Callable[[int], None]) -> Env:
    """The task's environment, recorded to `path`. Raises UsageError if nothing can be rendered on this machine."""
    try:
        env = suites.make(task, render=True)
    except suites.SuiteError:
        raise
    except Exception as error:  # each OpenGL backend fails in its own way
        raise _cannot_render(error) from error
    return RecordVideo(env, path, task.action_repeat, on_step)


class RecordVideo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records an environment made with `render=True`; `on_step` receives the current step.

    Raises UsageError if nothing can be rendered on this machine, or if the file cannot be written.
    """

    def __init__(self, env: Env, path: Path, action_repeat: int, on_step: Callable[[int], None]) -> None:
        super().__init__(env)
        steps_per_second = float(env.metadata.get("render_fps") or FRAMES_PER_SECOND) / action_repeat
        self._every = max(1, round(steps_per_second / FRAMES_PER_SECOND))
        self._path, self._rate, self._on_step = path, steps_per_second / self._every, on_step
        self._steps = 0
        self._file: Generator[None, bytes | None, None] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        reset: tuple[Any, dict[str, Any]] = self.env.reset(seed=seed, options=options)
        self._steps = 0
        self._write_frame()
        return reset

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        stepped = self.env.step(action)
        self._steps += 1
        if self._steps % self._every == 0:
            self._write_frame()
        self._on_step(self._steps)
        return stepped

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _write_frame(self) -> None:
        try:
            frame = np.ascontiguousarray(self.env.render(), np.uint8)
            height, width, _ = frame.shape
        except Exception as error:  # each OpenGL backend fails in its own way
            raise _cannot_render(error) from error
        try:
            if self._file is None:
                self._file = self._open(width, height)
            self._file.send(frame.tobytes())
        except OSError as error:
            raise UsageError(f"--video {str(self._path)!r} cannot be written: {error}") from error

    def _open(self, width: int, height: int) -> Generator[None, bytes | None, None]:
        import imageio_ffmpeg

        file: Generator[None, bytes | None, None] = imageio_ffmpeg.write_frames(
            str(self._path),
            (width, height),
            fps=self._rate,
            macro_block_size=2,
            ffmpeg_log_level="error",
            **FORMATS[self._path.suffix],
        )
        file.send(None)
        return file


def _cannot_render(error: Exception) -> UsageError:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return UsageError(f"--video: cannot render on this machine ({why}); try MUJOCO_GL=egl, osmesa or glfw")
