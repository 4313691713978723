"""What a running grid shows: the arithmetic of the time left, lines for logs, bars for terminals."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fakes import make_cell
from rich.console import Console

from flowbench.grid import progress
from flowbench.grid.progress import Bars, Board, Lines, Remaining
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
    left = Remaining([one], 1)
    assert left.seconds() is None
    assert left.group_seconds(one) is None
    left.tick(one, 0, 0.0)
    assert left.seconds() is None


def test_time_left_of_one_run() -> None:
    one = group()
    left = Remaining([one], 1)
    left.tick(one, 40, 10.0)
    assert left.group_seconds(one) == pytest.approx(6.0)
    assert left.seconds() == pytest.approx(6.0)
    left.end(one)
    assert left.seconds() == 0.0


def test_time_left_of_a_grid() -> None:
    groups = [*(group(seed=seed) for seed in range(4)), group("fast")]
    left = Remaining(groups, 2)
    left.tick(groups[0], 50, 10.0)
    assert left.seconds() == pytest.approx(25.0)  # one slot: 5, 10 and 10; the other: 10 and 10
    left.tick(groups[4], 50, 50.0)
    assert left.group_seconds(groups[4]) == pytest.approx(1.0)
    assert left.seconds() == pytest.approx(21.0)  # both slots are taken, and the free one takes two groups
    for each in groups[1:]:
        left.end(each)
    assert left.seconds() == pytest.approx(5.0)


# Which board


def test_kind_of_board_depends_on_the_terminal() -> None:
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


def test_one_line_per_evaluation_and_end() -> None:
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


def test_line_is_not_wrapped_in_a_narrow_terminal() -> None:
    one = group("flowrl[" + ",".join(f"parameter_{n}=1" for n in range(20)) + "]")
    with Lines([one], 1, Console(file=io.StringIO(), width=40)) as board:
        board.outcome(outcome(one))
    assert len(text(board).splitlines()) == 1


def test_unknown_event_is_ignored() -> None:
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


def test_one_bar_per_running_cell_and_one_for_the_grid() -> None:
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


def test_bars_are_removed_after_an_error() -> None:
    one = group()
    board = Bars([one], 1, screen(terminal=True))
    with pytest.raises(ZeroDivisionError), board:
        _ = 1 / 0
    assert not board._progress.live.is_started


@pytest.mark.parametrize("kind", [Lines, Bars])
def test_cells_that_are_skipped_have_no_line(kind: type[Board]) -> None:
    groups = [group(seed=seed) for seed in range(3)]
    with kind(groups, 1, screen(terminal=kind is Bars)) as board:
        board.outcome(outcome(groups[0], "stopped"))
        for waiting in groups[1:]:
            board.outcome(outcome(waiting, "skipped"))
    assert "seed 0 stopped" in text(board)
    assert "skipped" not in text(board)
