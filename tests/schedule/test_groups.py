"""Which cells are due, and which train together."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run

from flowbench.common.errors import UsageError
from flowbench.schedule.groups import Group, find_due, make_groups, parse_shard, take_shard, tidy
from flowbench.store import lease, lock


@pytest.mark.parametrize("status", ["failed", "stopped", "running", "queued"])
def test_cells_that_are_not_done_are_due(tmp_path: Path, status: str) -> None:
    cells = [make_cell(seed=seed) for seed in range(3)]
    put_run(tmp_path, cells[0])
    put_run(tmp_path, cells[1], status)
    found = find_due(tmp_path, cells)
    assert (found.done, found.due, found.running) == (cells[:1], cells[1:], [])


def test_cell_that_another_process_trains_is_not_due(tmp_path: Path) -> None:
    cell = make_cell()
    folder = put_run(tmp_path, cell, "running")
    with lock.hold(folder):
        for force in (False, True):
            found = find_due(tmp_path, [cell], force)
            assert (found.done, found.due, found.running) == ([], [], [cell])


def test_force_makes_done_cells_due(tmp_path: Path) -> None:
    cells = [make_cell(seed=seed) for seed in range(2)]
    put_run(tmp_path, cells[0])
    assert find_due(tmp_path, cells, force=True).due == cells


def test_other_config_is_due(tmp_path: Path) -> None:
    put_run(tmp_path, make_cell())
    other = make_cell(hidden=9)
    assert find_due(tmp_path, [other]).due == [other]


@pytest.mark.parametrize("data", ["", "[]", "null", '{"schema": 9}'])
def test_cell_with_unreadable_record_is_due(tmp_path: Path, data: str) -> None:
    cell = make_cell()
    (put_run(tmp_path, cell) / "run.json").write_text(data)
    assert find_due(tmp_path, [cell]).due == [cell]


def test_changed_task_is_rejected(tmp_path: Path) -> None:
    suite = make_suite()
    task = dataclasses.replace(suite.tasks[0], action_repeat=4)
    put_run(tmp_path, make_cell(suite=dataclasses.replace(suite, tasks=(task,))))
    with pytest.raises(UsageError, match="action_repeat"):
        find_due(tmp_path, [make_cell(seed=1)])


@pytest.mark.parametrize("changes", [{"low": -1000.0}, {"high": 1.0}])
def test_changed_score_bounds_are_rejected(tmp_path: Path, changes: dict[str, float]) -> None:
    suite = make_suite()
    task = dataclasses.replace(suite.tasks[0], score=dataclasses.replace(suite.tasks[0].score, **changes))
    put_run(tmp_path, make_cell(suite=dataclasses.replace(suite, tasks=(task,))))
    (bound,) = changes
    with pytest.raises(UsageError, match=f"score {bound} is .* now, and was {changes[bound]} in"):
        find_due(tmp_path, [make_cell(seed=1)])


@pytest.mark.parametrize(
    ("seeds", "stack", "expected"),
    [
        (range(5), 1, [[0], [1], [2], [3], [4]]),
        (range(5), 5, [[0, 1, 2, 3, 4]]),
        (range(5), 8, [[0, 1, 2, 3, 4]]),
        (range(10), 8, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),  # as even as can be, not eight and two
        (range(7), 3, [[0, 1], [2, 3, 4], [5, 6]]),
        ([1, 4], 2, [[1, 4]]),
    ],
)
def test_seeds_are_grouped_evenly(seeds, stack: int, expected: list[list[int]]) -> None:
    found = make_groups([make_cell(seed=seed) for seed in seeds], stack)
    assert [[cell.seed for cell in group.cells] for group in found] == expected


def test_only_seeds_of_one_task_and_variant_are_grouped() -> None:
    suite = make_suite(tasks=("Pendulum-v1", "MountainCarContinuous-v0"))
    cells = [
        make_cell(algo, seed=seed, suite=suite, task=task, lr=lr)
        for seed in (0, 1) for task in suite.tasks for algo in ("td3", "sac") for lr in (1e-3, 1e-4)
    ]  # fmt: skip
    found = make_groups(cells, 4)
    assert len(found) == 8
    assert all([cell.seed for cell in group.cells] == [0, 1] for group in found)
    assert [group.cells[0] for group in found] == cells[:8]
    for group in found:
        assert len({(cell.task.name, cell.variant.config_id) for cell in group.cells}) == 1
    assert make_groups([], 4) == []


def interrupted(root: Path, seed: int, group: list[int], *steps: int) -> None:
    """A cell that was stopped in a group, with checkpoints of these steps."""
    folder = put_run(root, make_cell(seed=seed), "stopped", group)
    (folder / "checkpoint").mkdir()
    for step in steps:
        (folder / "checkpoint" / f"{step}.json").write_text("{}")


def test_an_interrupted_group_stays_together(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        interrupted(tmp_path, seed, [0, 1, 2], 100, 200)
    interrupted(tmp_path, 3, [3, 4], 50)
    interrupted(tmp_path, 4, [3, 4], 40, 50)
    cells = [make_cell(seed=seed) for seed in range(8)]

    def seeds(stack: int, root: Path | None) -> list[list[int]]:
        return [[cell.seed for cell in group.cells] for group in make_groups(cells, stack, root)]

    assert seeds(1, tmp_path) == [[0, 1, 2], [3, 4], [5], [6], [7]]
    assert seeds(8, tmp_path) == [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert seeds(8, None) == [list(range(8))]


@pytest.mark.parametrize("alone", [0, 1])
def test_group_of_which_one_cell_was_started_alone_stays_together(tmp_path: Path, alone: int) -> None:
    for seed in (0, 1):
        interrupted(tmp_path, seed, [alone] if seed == alone else [0, 1], 20, 40)
    cells = [make_cell(seed=seed) for seed in (0, 1)]
    assert [len(group.cells) for group in make_groups(cells, 2, tmp_path)] == [2]


def test_checkpoints_of_finished_cells_are_removed_unless_kept(tmp_path: Path) -> None:
    for seed, keep in ((0, False), (1, True)):
        interrupted(tmp_path, seed, [seed], 100)
        put_run(tmp_path, make_cell(seed=seed), keep_checkpoints=keep)
    tidy(tmp_path, [make_cell(seed=seed) for seed in range(3)])
    assert not (tmp_path / make_cell(seed=0).path / "checkpoint").exists()
    assert (tmp_path / make_cell(seed=1).path / "checkpoint" / "100.json").exists()


@pytest.mark.parametrize("left", [f"{lease.host()}.0123456789abcdef", None, "another-host.0123456789abcdef"])
def test_lease_that_a_finished_cell_has_kept_is_removed(tmp_path: Path, left: str | None) -> None:
    folder = put_run(tmp_path, make_cell())
    (folder / "lease").mkdir()
    if left:
        (folder / "lease" / left).write_text("1 1\n")
    tidy(tmp_path, [make_cell()])
    assert (folder / "lease").exists() == bool(left and left.startswith("another"))
    assert not list(folder.glob("lease-*"))


def test_an_interrupted_group_keeps_its_order(tmp_path: Path) -> None:
    for seed in (7, 3, 5):
        interrupted(tmp_path, seed, [7, 3, 5], 100)
    (group,) = make_groups([make_cell(seed=seed) for seed in (3, 5, 7)], 8, tmp_path)
    assert [cell.seed for cell in group.cells] == [7, 3, 5]


def test_cell_without_a_checkpoint_in_common_resumes_alone(tmp_path: Path) -> None:
    interrupted(tmp_path, 0, [0, 1, 2], 100, 200)
    interrupted(tmp_path, 1, [0, 1, 2], 30, 40)  # lost long before the others were stopped
    interrupted(tmp_path, 2, [0, 1, 2], 200, 300)  # killed while the others' were being written
    groups = make_groups([make_cell(seed=seed) for seed in range(3)], 8, tmp_path)
    assert [[cell.seed for cell in group.cells] for group in groups] == [[0, 2], [1]]


def test_group_killed_during_its_first_checkpoint_starts_again_together(tmp_path: Path) -> None:
    interrupted(tmp_path, 0, [0, 1], 100)
    interrupted(tmp_path, 1, [0, 1])
    interrupted(tmp_path, 2, [2], 100)
    groups = make_groups([make_cell(seed=seed) for seed in range(4)], 2, tmp_path)
    assert [[cell.seed for cell in group.cells] for group in groups] == [[0, 1], [2], [3]]


def test_groups_do_not_depend_on_what_is_done(tmp_path: Path) -> None:
    grid = [make_cell(seed=seed) for seed in range(5)]

    def seeds(cells, root: Path | None = None) -> list[list[int]]:
        return [[cell.seed for cell in group.cells] for group in make_groups(cells, 2, root, grid)]

    assert seeds(grid) == [[0, 1], [2], [3, 4]]
    assert seeds(grid[2:]) == [[2], [3, 4]]
    interrupted(tmp_path, 0, [0, 1], 50)
    interrupted(tmp_path, 1, [0, 1], 50)
    assert seeds(grid, tmp_path) == [[0, 1], [2], [3, 4]]


@pytest.mark.parametrize("group", [5, None, "0", {"0": 1}])
def test_record_with_an_invalid_group(tmp_path: Path, group) -> None:
    interrupted(tmp_path, 0, [0, 1], 100)
    interrupted(tmp_path, 1, [0, 1], 100)
    path = tmp_path / make_cell(seed=1).path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "group": group}))
    groups = make_groups([make_cell(seed=seed) for seed in range(2)], 2, tmp_path)
    assert [[cell.seed for cell in group.cells] for group in groups] == [[0], [1]]


def test_name_of_a_group() -> None:
    assert str(Group((make_cell(seed=3),))) == "td3 Pendulum-v1 seed 3"
    assert str(Group(tuple(make_cell(seed=seed) for seed in (3, 4, 5)))) == "td3 Pendulum-v1 seeds 3-5"
    assert str(Group(tuple(make_cell(seed=seed) for seed in (3, 5)))) == "td3 Pendulum-v1 seeds 3,5"


# Parts of a grid


@pytest.mark.parametrize("seed", range(20))
def test_shards_are_disjoint_complete_and_even(seed: int) -> None:
    draw = random.Random(seed)
    suite = make_suite(tasks=("Pendulum-v1", "MountainCarContinuous-v0"))
    cells = [
        make_cell("td3", seed=each, suite=suite, task=task, lr=lr)
        for lr in (1e-3, 1e-4, 1e-5)[: draw.randint(1, 3)]
        for task in suite.tasks
        for each in draw.sample(range(30), draw.randint(1, 9))
    ]
    stack, count = draw.randint(1, 8), draw.randint(1, 9)
    shards = [take_shard(cells, stack, number, count) for number in range(1, count + 1)]
    assert sorted(id(cell) for shard in shards for cell in shard) == sorted(map(id, cells))
    whole = make_groups(cells, stack, grid=cells)
    assert max(map(len, shards)) - min(map(len, shards)) <= max(len(group.cells) for group in whole)
    for shard in shards:
        assert [cell for cell in cells if cell in shard] == shard
        for group in make_groups(shard, stack, grid=cells):
            assert group.cells in [each.cells for each in whole]  # as they would be without --shard


def test_each_shard_has_its_share_of_each_variant() -> None:
    cells = [make_cell(algo, seed=seed) for seed in range(8) for algo in ("td3", "sac")]
    for number in range(1, 5):
        mine = [cell.variant.entry.name for cell in take_shard(cells, 1, number, 4)]
        assert sorted(mine) == ["sac", "sac", "td3", "td3"]


def test_some_shards_are_empty_if_there_are_more_than_groups() -> None:
    cells = [make_cell(seed=seed) for seed in range(4)]
    assert [len(take_shard(cells, 4, number, 3)) for number in (1, 2, 3)] == [4, 0, 0]


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "a/b", "1.0/4", " 1/4"])
def test_invalid_shard_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text)


def test_a_shard_is_two_numbers() -> None:
    assert parse_shard("2/8") == (2, 8)
