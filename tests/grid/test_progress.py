"""What a running grid shows: the arithmetic of the time left, lines for logs, bars for terminals."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fakes import make_cell
from rich.console import Console

from flowbench.grid import progress
from flowbench.grid.progress import DECAY, Bars, Board, Lines, Pace
from flowbench.schedule.groups import Group
from flowbench.schedule.runner import Outcome


def group(label: str = "td3", steps: int = 100, seed: int = 0) -> Group:
    return Group((make_cell(label=label, steps=steps, seed=seed),))


def screen(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, color_system=None, legacy_windows=False,
                   _environ={})  # fmt: skip


def text(board: Board) -> str:
    file = board.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def tick(step: int, speed: float) -> dict[str, object]:
    return {"event": "tick", "step": step, "speed": speed}


def outcome(of: Group, status: str = "done", error: str = "") -> Outcome:
    return Outcome(of.cells[0], status, Path("log.txt"), error)


# The time left


def test_nothing_is_known_before_the_first_tick() -> None:
    one = group()
    pace = Pace([one], 1)
    assert pace.seconds() is None
    assert pace.group_seconds(one) is None
    pace.tick(one, 0, 0.0)
    assert pace.seconds() is None


def test_what_is_left_of_one_run() -> None:
    one = group()
    pace = Pace([one], 1)
    pace.tick(one, 40, 10.0)
    assert pace.group_seconds(one) == pytest.approx(6.0)
    assert pace.seconds() == pytest.approx(6.0)
    pace.end(one)
    assert pace.seconds() == 0.0


def test_a_slow_stretch_counts_for_the_time_it_took() -> None:
    one = group()
    pace = Pace([one], 1)
    pace.tick(one, 40, 10.0)  # 4 seconds
    pace.tick(one, 50, 2.0)  # 5 seconds, an evaluation among them
    seconds, steps = DECAY * 4 + 5, DECAY * 40 + 10
    assert pace.group_seconds(one) == pytest.approx(50 * seconds / steps)


def test_runs_share_the_slots() -> None:
    groups = [group(seed=seed) for seed in range(4)]
    pace = Pace(groups, 2)
    pace.tick(groups[0], 50, 10.0)
    assert pace.seconds() == pytest.approx((5 + 10 + 10 + 10) / 2)
    pace.end(groups[1])
    pace.end(groups[2])
    # One run of ten seconds is not done sooner for having two slots.
    assert pace.seconds() == pytest.approx(10.0)


def test_algorithms_have_a_pace_each_and_unseen_ones_the_mean() -> None:
    slow, fast, unseen = group("slow"), group("fast"), group("unseen", steps=200)
    pace = Pace([slow, fast, unseen], 1)
    pace.tick(slow, 20, 1.0)
    pace.tick(fast, 20, 4.0)
    assert pace.group_seconds(fast) == pytest.approx(20.0)
    assert pace.group_seconds(unseen) is None
    assert pace.seconds() == pytest.approx(80 + 20 + 200 * (1 + 0.25) / 2)


# Which board


def test_the_board_fits_where_it_is_shown() -> None:
    one = [group()]
    assert type(progress.board(one, 1, screen(terminal=True), quiet=False)) is Bars
    assert type(progress.board(one, 1, screen(), quiet=False)) is Lines
    assert type(progress.board(one, 1, screen(terminal=True), quiet=True)) is Board


def test_a_quiet_board_prints_nothing() -> None:
    one = group()
    with progress.board([one], 1, screen(terminal=True), quiet=True) as board:
        board.event(one, tick(10, 5.0))
        board.event(one, {"event": "evaluation", "seed": 0, "step": 10, "mean": 1.0})
        board.outcome(outcome(one, "failed", "boom"))
    assert text(board) == ""
    assert board.ended == 1


# Lines


def test_a_line_an_evaluation_and_an_end() -> None:
    first, second = group("flowrl[flow_steps=5]", 2000), group("flowrl[flow_steps=5]", 2000, seed=1)
    with Lines([first, second], 1, screen()) as board:
        board.event(first, {"event": "stage", "text": "loading"})
        board.event(first, tick(1000, 64.0))
        board.event(first, {"event": "evaluation", "seed": 0, "step": 1000, "mean": 12.345})
        board.outcome(outcome(first))
        board.event(second, tick(500, 64.0))
        board.outcome(outcome(second, "failed", "RuntimeError: [red]no[/red]"))
    assert text(board).splitlines() == [
        "flowrl[flow_steps=5] Pendulum-v1 seed 0: step 1,000 of 2,000, return 12.3",
        "[1/2] flowrl[flow_steps=5] Pendulum-v1 seed 0 done, 0:31 left",
        "[2/2] flowrl[flow_steps=5] Pendulum-v1 seed 1 failed: RuntimeError: [red]no[/red], 0:00 left",
    ]


def test_a_line_is_one_line_however_narrow_the_terminal() -> None:
    one = group("flowrl[" + ",".join(f"parameter_{n}=1" for n in range(20)) + "]")
    with Lines([one], 1, Console(file=io.StringIO(), width=40)) as board:
        board.outcome(outcome(one))
    assert len(text(board).splitlines()) == 1


def test_an_event_of_a_later_version_is_no_error() -> None:
    one = group()
    for kind in (Lines, Bars):
        with kind([one], 1, screen(terminal=True)) as board:
            board.event(one, {"event": "applause"})
            board.event(one, {})


# Bars


def drawn(board: Bars) -> str:
    """What the bars look like now."""
    console = screen(terminal=True)
    console.print(board._progress)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_bar_a_running_cell_and_one_for_all() -> None:
    groups = [group("flowrl[flow_steps=5]", 2000, seed=seed) for seed in range(3)]
    with Bars(groups, 1, screen(terminal=True)) as board:
        assert "0 of 3 done" in drawn(board)
        assert "flowrl" not in drawn(board)  # only what runs has a bar
        board.event(groups[0], {"event": "stage", "text": "loading"})
        assert "seed 0" in drawn(board)
        board.event(groups[0], tick(500, 64.0))
        board.event(groups[0], {"event": "evaluation", "seed": 0, "step": 500, "mean": -3.21})
        (line,) = [line for line in drawn(board).splitlines() if "seed 0" in line]
        for words in ("flowrl[flow_steps=5] Pendulum-v1 seed 0", "25%", "64", "0:23", "-3.2"):
            assert words in line
        (overall,) = [line for line in drawn(board).splitlines() if "of 3 done" in line]
        assert "1:25" in overall  # 1500 + 2000 + 2000 steps
        board.outcome(outcome(groups[0]))
        assert "seed 0" not in drawn(board)
        assert "1 of 3 done" in drawn(board)
        board.outcome(outcome(groups[1], "failed", "boom [bold]"))
        assert "1 of 3 done" in drawn(board)  # what failed is not done
    assert "flowrl[flow_steps=5] Pendulum-v1 seed 1 failed: boom [bold]" in text(board)
    assert "seed 0 done" not in text(board)


def test_bars_are_gone_when_the_grid_breaks_off() -> None:
    one = group()
    board = Bars([one], 1, screen(terminal=True))
    with pytest.raises(ZeroDivisionError), board:
        _ = 1 / 0
    assert not board._progress.live.is_started
