"""How a running grid is drawn, and followed."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path

import pytest
from fakes import make_cell, put_run
from rich.console import Console

from flowbench.cli import watch
from flowbench.monitor.dashboard import ASCII_BLOCKS, BLOCKS, Dashboard, short, sparkline
from flowbench.monitor.snapshot import Failure, Running, Snapshot, Watcher


def running(seed: int = 0, **changes: object) -> Running:
    values: dict[str, object] = {
        "suite": "dmc-hard", "task": "humanoid-run", "algo": "flowrl", "seed": seed, "step": 250_000,
        "steps": 1_000_000, "speed": 61.3, "last": 123.456, "curve": (1.0, 2.0, 3.0), "group": str(seed),
    }  # fmt: skip
    return Running(**{**values, **changes})  # type: ignore[arg-type]


def snapshot(**changes: object) -> Snapshot:
    values: dict[str, object] = {
        "counts": {"done": 3, "running": 1}, "share": 0.999, "left": 3725.0, "running": [running()], "failures": [],
        "problems": [],
    }  # fmt: skip
    return Snapshot(**{**values, **changes})  # type: ignore[arg-type]


def draw(shown: Snapshot, width: int = 80, height: int = 24, encoding: str = "utf-8", fits: bool = True) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, height=height)
    console.print(Dashboard(shown, "results, 12:00:00", fits))
    file.flush()
    lines = file.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    return [line.rstrip() for line in lines]


def failures(count: int) -> list[Failure]:
    return [Failure("dog-run", "sac", seed, f"ValueError: {seed}", "") for seed in range(count)]


def test_a_grid_at_a_glance() -> None:
    lines = draw(snapshot())
    assert lines[0] == "results, 12:00:00"
    assert lines[1].endswith("99% of 4 cells, 1:02:05 left")
    assert lines[2] == "3 done, 1 running"
    assert lines[4].split() == ["task", "algorithm", "seed", "step", "steps/s", "return", "curve", "left"]
    assert lines[5].split() == ["humanoid-run", "flowrl", "0", "250k/1M", "61", "123.5", "▁▅█", "3:23:54"]


def test_cell_that_has_just_started() -> None:
    (line,) = draw(snapshot(running=[running(step=0, speed=None, last=None, curve=())]))[5:]
    assert line.split() == ["humanoid-run", "flowrl", "0", "0/1M", "-:--"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_long_names_are_shortened_in_the_middle(width: int) -> None:
    algo = "flowrl[weights=sample,weighting=linear,flow_steps=5,steps=4000]"
    task = "manipulation/reach_duplo_features_of_great_length"
    line = draw(snapshot(running=[running(task=task, algo=algo)]), width)[5]
    shown_task, shown_algo, *rest = line.split()
    assert (shown_task[:4], shown_task[-3:]) == ("mani", "gth")
    assert (shown_algo[:4], shown_algo[-3:]) == ("flow", "00]")
    assert "…" in shown_task
    assert ("▁▅█" in rest) == (width > 60)  # where there is too little room for names there is no curve
    assert rest[-1] == "3:23:54"


def test_task_has_its_suite_if_there_are_several() -> None:
    lines = draw(snapshot(running=[running(), running(suite="quick", task="hop")]))
    assert [line.split()[0] for line in lines[5:]] == ["dmc-hard/humanoid-run", "quick/hop"]


def test_more_cells_than_rows_are_counted() -> None:
    shown = snapshot(running=[running(seed) for seed in range(100)], failures=failures(5))
    lines = draw(shown)
    assert len(lines) == 24
    assert "and 88 more running" in lines
    assert lines[-1] == "and 2 earlier failures"
    assert len(draw(shown, fits=False)) == 5 + 100 + 6  # a log has room


@pytest.mark.parametrize("count", range(13, 20))
def test_every_line_of_the_screen_is_used(count: int) -> None:
    lines = draw(snapshot(running=[running(seed) for seed in range(count)]))
    assert len(lines) <= 24
    assert len(lines) == 5 + count


def test_failures_are_a_line_each() -> None:
    long = Failure("dog-run", "sac", 7, "RuntimeError: " + "very " * 40, "")
    lines = draw(snapshot(failures=[long]))
    assert lines[-2] == "failed (latest first)"
    assert lines[-1].startswith("dog-run sac seed 7: RuntimeError: very")
    assert lines[-1].endswith("…")


def test_long_names_leave_room_for_the_error() -> None:
    found = Failure("humanoidbench/h1hand-walk", "flowrl[constraint=false]", 7, "FloatingPointError: q", "")
    assert draw(snapshot(failures=[found]))[-1] == "humanoid…nd-walk flowrl[c…=false] seed 7: FloatingPointError: q"


def test_unreadable_runs_are_counted() -> None:
    assert draw(snapshot(problems=["a/run.json: torn", "b"]))[-1] == "2 runs cannot be read: a/run.json: torn"


def test_nothing_there_nothing_trains_and_the_end() -> None:
    assert draw(snapshot(counts={}, running=[]))[1:] == ["no runs here yet"]
    assert draw(snapshot(counts={"queued": 1}, running=[]))[-1].startswith("nothing is training now")
    ended = draw(snapshot(counts={"done": 1, "failed": 1}, running=[], share=0.5))
    assert ended[1].endswith("50% of 2 cells")
    assert ended[2:] == ["1 done, 1 failed"]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    shown = snapshot(running=[running(task="täsk" * 20)], failures=[Failure("t", "a" * 99, 0, "é", "")])
    text = "\n".join(draw(shown, encoding="ascii"))
    assert "_=#" in text
    assert ".." in text


def test_control_characters_and_markup_are_not_interpreted() -> None:
    shown = snapshot(running=[running(task="a\x1b[2Jb")], failures=[Failure("[red]x", "y", 0, "\x1b]0;z\x07", "")])
    text = "\n".join(draw(shown))
    assert "\x1b" not in text
    assert "[red]x" in text


@pytest.mark.parametrize(
    ("curve", "width", "shown"),
    [
        ((), 5, ""),
        ((3.0,), 5, "▁"),
        ((2.0, 2.0), 5, "▁▁"),
        ((0.0, 7.0, 3.0), 5, "▁█▄"),
        ((0.0, 0.0, 4.0, 4.0, 7.0, 7.0), 3, "▁▅█"),
        ((0.0, math.nan, 7.0), 5, "▁?█"),
        ((math.nan,), 5, "?"),
        ((math.inf, 0.0, 1.0), 5, "?▁█"),
    ],
)
def test_a_sparkline(curve: tuple[float, ...], width: int, shown: str) -> None:
    assert sparkline(curve, width, BLOCKS) == shown
    assert sparkline(curve, width, ASCII_BLOCKS) == shown.translate(str.maketrans(BLOCKS, ASCII_BLOCKS))


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (0.314, "0.31"), (9.96, "10"), (61.3, "61"), (999, "999"), (1000, "1k"), (12_590, "12.5k"),
     (999_999, "999k"), (1e6, "1M"), (2.5e6, "2.5M")],
)  # fmt: skip
def test_a_short_number(number: float, shown: str) -> None:
    assert short(number) == shown


# The command


def test_without_a_terminal_one_snapshot_is_printed(flowbench, tmp_path: Path) -> None:
    put_run(tmp_path, make_cell(), "queued")
    status, out, err = flowbench("watch", "--results", tmp_path)
    assert (status, err) == (0, "")
    assert "1 queued" in out
    assert flowbench("watch", "--once", "--results", tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--every", "0"], "--every '0'"), (["--algo", "sca"], "'sca'"), (["--suite", "x"], "'x'")]
)
def test_mistakes_are_reported(flowbench, tmp_path: Path, arguments: list[str], named: str) -> None:
    put_run(tmp_path, make_cell(), "done")
    status, _, err = flowbench("watch", "--results", tmp_path, *arguments)
    assert status == 2
    assert named in err
    assert flowbench("watch", "--results", tmp_path / "none")[0] == 2


def follow(root: Path, monkeypatch: pytest.MonkeyPatch, sleep: object) -> Snapshot:
    monkeypatch.setattr(time, "sleep", sleep)
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    watcher = Watcher(root)
    return watch._follow(watcher, watcher.look(), 5.0, console, "results")


def test_a_grid_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_run(tmp_path, make_cell(), "queued")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        put_run(tmp_path, make_cell(), "done" if len(slept) == 3 else "queued")

    assert follow(tmp_path, monkeypatch, sleep).counts == {"done": 1}
    assert slept == [5.0] * 3


def test_ctrl_c_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_run(tmp_path, make_cell(), "queued")

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    assert follow(tmp_path, monkeypatch, interrupted).counts == {"queued": 1}


@pytest.mark.parametrize("ending", ["done", "Ctrl-C"])
def test_a_folder_that_is_about_to_come_is_waited_for(flowbench, tmp_path: Path, monkeypatch, ending: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(watch, "_is_terminal", lambda console: True)
    root, slept = tmp_path / "soon" / "results", list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            put_run(root, make_cell(), "done" if ending == "done" else "queued")
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    status, out, err = flowbench("watch", "--results", root)
    assert (status, err) == (0, "")
    assert len(slept) == (2 if ending == "done" else 3)
    last = out.rpartition("\x1b[?1049l")[2]  # after the screen of the live display
    assert ("1 done" if ending == "done" else "1 queued") in last
