"""Films: an environment's pictures, drawn as it is stepped, into an .mp4 or .gif file."""

from __future__ import annotations

from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from flowbench.common.errors import UsageError, unknown
from flowbench.train.vecenv import Env

FORMATS: dict[str, dict[str, Any]] = {  # how ffmpeg is asked for each
    ".mp4": {},
    ".gif": {
        "codec": "gif",
        "pix_fmt_out": "pal8",
        "quality": None,
        # Colours of its own for each picture, and half the size: a GIF compresses little.
        "output_params": ["-vf", "scale=iw/2:-1,split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"],
    },
}
PICTURES_A_SECOND = 30  # about: every n-th step is drawn, in real time


def check(path: Path) -> None:
    """Raise UsageError where no film can be written to `path`."""
    if path.suffix not in FORMATS:
        raise UsageError(f"--video {str(path)!r}: {unknown('suffix', path.suffix, FORMATS)}")
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"--video {str(path)!r}: there is no folder {str(path.parent)!r}, or the name is a folder's")
    if find_spec("imageio_ffmpeg") is None:
        raise UsageError("--video: imageio-ffmpeg is not installed; pip install -e '.[video]' brings it")


class Filmed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment made with `render`, whose first episode is filmed.

    Raises UsageError, in one line, where nothing can be drawn here, or the file cannot be written.
    """

    def __init__(self, env: Env, path: Path, action_repeat: int, tell: Callable[[int], None]) -> None:
        """`tell` hears of the steps filmed so far."""
        super().__init__(env)
        steps_a_second = float(env.metadata.get("render_fps") or PICTURES_A_SECOND) / action_repeat
        self._every = max(1, round(steps_a_second / PICTURES_A_SECOND))
        self._path, self._rate, self._tell = path, steps_a_second / self._every, tell
        self._steps = 0
        self._file: Generator[None, bytes | None, None] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        started = self.env.reset(seed=seed, options=options)
        self._steps = 0
        self._draw()
        return started

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        stepped = self.env.step(action)
        self._steps += 1
        if self._steps % self._every == 0:
            self._draw()
        self._tell(self._steps)
        return stepped

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _draw(self) -> None:
        try:
            picture = np.ascontiguousarray(self.env.render(), np.uint8)
            height, width, _ = picture.shape
        except Exception as error:  # each backend of OpenGL fails in its own way
            raise cannot_draw(error) from error
        try:
            if self._file is None:
                self._file = self._open(width, height)
            self._file.send(picture.tobytes())
        except OSError as error:
            raise UsageError(f"--video {str(self._path)!r} cannot be written: {error}") from error

    def _open(self, width: int, height: int) -> Generator[None, bytes | None, None]:
        import imageio_ffmpeg

        how = FORMATS[self._path.suffix]
        file: Generator[None, bytes | None, None] = imageio_ffmpeg.write_frames(
            str(self._path), (width, height), fps=self._rate, macro_block_size=2, ffmpeg_log_level="error", **how
        )
        file.send(None)
        return file


def cannot_draw(error: Exception) -> UsageError:
    """What to say of whatever kept an environment from being drawn."""
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return UsageError(
        f"--video: nothing can be drawn here ({why}); MUJOCO_GL=egl, osmesa or glfw says with what to try"
    )
