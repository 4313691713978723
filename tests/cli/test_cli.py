"""The command line, end to end in a temporary folder."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from fakes import TINY, make_cell, make_suite, without_clock, write_algorithm, write_suite
from msgspec.structs import replace

import algos
import flowbench as package
from flowbench import cli
from flowbench.plan.expand import expand
from flowbench.schedule.executors import local
from flowbench.store import lock, records
from flowbench.store.records import RunRecord

SUPPORT = Path(__file__).parents[1] / "support"
EXAMPLE = f"{SUPPORT / 'example_algorithm.py'}:DDPG"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory):
    """Two tasks, TD3 and an algorithm from a file, two seeds, trained: the arguments and the results folder."""
    folder = tmp_path_factory.mktemp("grid")
    results = folder / "results"
    suite = write_suite(folder)
    arguments = ["run", "--suite", suite, "--algo", f"td3[{TINY}],{EXAMPLE}[{TINY}]", "--seeds", "2", "--jobs", "2",
                 "--device", "cpu", "--results", str(results)]  # fmt: skip
    assert cli._status(arguments) == 0
    return arguments, results


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever starts a worker fails."""

    monkeypatch.setattr(local.subprocess, "Popen", stand_in(lambda: pytest.fail("a worker was started")))


def stand_in(code: Callable[[], str]):
    """A Popen that runs Python code in the place of every worker; what else starts processes is left alone."""
    real = subprocess.Popen

    class StandIn(real):  # type: ignore[type-arg, valid-type, misc]
        def __init__(self, command, *arguments, **options):
            if "flowbench.worker" in command:
                command = [sys.executable, "-c", code()]
            super().__init__(command, *arguments, **options)

    return StandIn


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time of change and its content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# A grid


def test_a_grid_leaves_a_folder_a_cell(grid) -> None:
    _, results = grid
    folders = sorted(path.relative_to(results).as_posix() for path in records.folders(results))
    assert len(folders) == 8
    for task in ("cartpole-balance", "pendulum-swingup"):
        for algo in ("td3", "ddpg"):
            for seed in (0, 1):
                pattern = rf"mini/{task}/{algo}/[\w=,]*hidden=8[\w=,]*-[0-9a-f]{{8}}/seed-{seed}"
                assert sum(bool(re.fullmatch(pattern, folder)) for folder in folders) == 1
    for folder in records.folders(results):
        run = records.read_run(folder)
        assert run.status == "done"
        assert (run.config["hidden"], run.config["batch_size"], run.config["random_steps"]) == (8, 4, 20)
        assert (folder / "evals.csv").read_text().count("\n") == 3
        assert (folder / "log.txt").exists()


def test_a_finished_grid_is_not_run_again(grid, flowbench, no_workers) -> None:
    arguments, results = grid
    before = snapshot(results)
    status, out, err = flowbench(*arguments)
    assert (status, err) == (0, "")
    assert out == "8 cells, 0 to run, 8 done already\n"
    assert snapshot(results) == before


def test_a_dry_run_shows_what_is_done_and_to_do(grid, flowbench, no_workers) -> None:
    arguments, results = grid
    before = snapshot(results)
    status, out, err = flowbench(*arguments, "--seeds", "0-3", "--dry-run")
    assert (status, err) == (0, "")
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if re.search(r"\s0-3\s", line)]
    assert len(rows) == 4
    assert all(row[1:5] == ["300", "0-3", "2", "2"] for row in rows)
    ids = {records.read_run(folder).config_id for folder in records.folders(results)}
    assert {row[5] for row in rows} == ids
    for task in ("cartpole-balance", "pendulum-swingup"):
        assert out.count(task) == 2
    assert "16 cells, 8 to run, 8 done already; 2 at once on CPU" in out
    assert snapshot(results) == before


def test_shards_divide_a_grid_whatever_is_done(grid, flowbench, no_workers) -> None:
    arguments, _ = grid
    shown = [flowbench(*arguments, "--seeds", "0-3", "--dry-run", "--shard", f"{number}/3") for number in (1, 2, 3)]
    assert all((status, err) == (0, "") for status, _, err in shown)
    assert [re.search(r"shard . of 3: (\d+) of the grid's 16 cells", out)[1] for _, out, _ in shown] == ["6", "5", "5"]
    counts = [re.search(r"(\d+) cells, (\d+) to run, (\d+) done already", out).groups() for _, out, _ in shown]
    assert [sum(int(count[k]) for count in counts) for k in range(3)] == [16, 8, 8]
    status, out, _ = flowbench(*arguments, "--shard", "100/100")
    assert (status, "0 cells, 0 to run" in out) == (0, True)


def test_another_config_is_another_variant(grid, flowbench, no_workers) -> None:
    arguments, _ = grid
    for change in (["--set", "td3.lr=1e-3"], ["--steps", "200"]):
        _, out, _ = flowbench(*arguments, *change, "--dry-run")
        assert re.search(r"8 cells, [48] to run, [04] done already", out)
    _, out, _ = flowbench(*arguments, "--set", "td3.lr=1e-3", "--dry-run")
    assert "4 to run, 4 done" in out  # the other algorithm's cells are as they were


def test_force_trains_again_sets_the_old_run_aside_and_gives_the_same_files(grid, flowbench) -> None:
    arguments, results = grid
    suite = arguments[arguments.index("--suite") + 1]
    (folder,) = (path for path in records.folders(results) if re.search(r"balance/td3/.*seed-0$", str(path)))
    rows = without_clock(folder / "evals.csv")
    started = records.read_run(folder).started
    try:
        status, out, _ = flowbench("run", "--suite", suite, "--task", "cartpole-balance", "--algo", f"td3[{TINY}]",
                                   "--seeds", "1", "--results", results, "--device", "cpu", "--jobs", "2",
                                   "--force")  # fmt: skip
        assert status == 0
        assert "1 cell, 1 to run, 0 done already" in out
        assert "1 done in" in out
        (aside,) = folder.parent.glob("replaced-*-seed-0")
        assert records.read_run(aside).started == started
        assert without_clock(aside / "evals.csv") == rows
        assert without_clock(folder / "evals.csv") == rows
    finally:
        for aside in folder.parent.glob("replaced-*"):
            for path in aside.iterdir():
                path.unlink()
            aside.rmdir()


# Looking at it


def test_status_counts_the_cells(grid, flowbench) -> None:
    _, results = grid
    status, out, err = flowbench("status", "--results", results)
    assert (status, err) == (0, "")
    assert "8 done" in out
    assert out.count("2 done") == 4
    for word in ("mini", "td3", "ddpg", "cartpole-balance", "pendulum-swingup"):
        assert word in out
    _, out, _ = flowbench("status", "--results", results, "--algo", "ddpg")
    assert "4 done" in out
    assert "td3" not in out


@pytest.mark.parametrize("format", ["table", "markdown", "latex", "csv", "json"])
def test_a_report_in_every_format(grid, flowbench, format: str) -> None:
    _, results = grid
    status, out, err = flowbench("report", "--results", results, "--format", format, "--reps", 50)
    assert (status, err) == (0, "")
    for word in ("cartpole-balance", "pendulum-swingup", "td3", "ddpg"):
        assert word in out
    if format == "json":
        assert isinstance(json.loads(out), dict)
    elif format == "csv":
        assert len(list(csv.reader(io.StringIO(out)))) > 4
    elif format == "latex":
        assert out.count(r"\toprule") >= 3
    elif format == "markdown":
        assert re.search(r"^\|[-:| ]+\|$", out, re.MULTILINE)


def test_two_algorithms_are_compared(grid, flowbench) -> None:
    _, results = grid
    status, out, err = flowbench("compare", "td3", "ddpg", "--results", results, "--reps", 50)
    assert (status, err) == (0, "")
    assert "on 0 of 2 tasks" in " ".join(out.split())
    assert "too few seeds on 2." in " ".join(out.split())
    status, out, _ = flowbench("compare", "td3", "ddpg", "--results", results, "--reps", 50, "--format", "json")
    assert json.loads(out)["suites"][0]["overall"]["tasks"] == 2


def test_figures_are_drawn_where_asked(grid, flowbench, tmp_path: Path) -> None:
    _, results = grid
    status, _, err = flowbench("report", "--results", results, "--reps", 50, "--figures", tmp_path / "new", "--thin")
    assert status == 0
    drawn = [Path(line.removeprefix("drew ")) for line in err.splitlines()]
    assert {path.suffix for path in drawn} == {".svg", ".pdf", ".png"}
    assert all(path.stat().st_size for path in drawn)
    assert "mini-time.svg" in {path.name for path in drawn}
    (tmp_path / "file").touch()
    status, _, err = flowbench("report", "--results", results, "--reps", 50, "--figures", tmp_path / "file")
    assert status == 2
    assert "--figures" in err


def test_a_report_can_be_of_an_earlier_step(grid, flowbench) -> None:
    _, results = grid
    assert flowbench("report", "--results", results, "--step", 150, "--reps", 50)[0] == 0
    assert flowbench("report", "--results", results, "--suite", "mini", "--algo", "td3", "--reps", 50)[0] == 0


def test_what_cannot_be_read_is_said_and_left_out(grid, flowbench, tmp_path: Path) -> None:
    folder = tmp_path / make_cell().path
    records.write_run(folder, replace(RunRecord.of(make_cell(), [0]), status="done"))
    broken = tmp_path / make_cell(seed=1).path
    broken.mkdir()
    (broken / "run.json").write_text("[]")
    status, out, err = flowbench("status", "--results", tmp_path)
    assert status == 0
    assert "1 done" in out
    assert err.startswith(f"flowbench: left out: {broken}")
    assert err.count("\n") == 1


# Grid files


def test_a_grid_file_holds_the_options(grid, flowbench, no_workers, tmp_path: Path) -> None:
    arguments, results = grid
    suite = arguments[arguments.index("--suite") + 1]
    path = tmp_path / "grid.yaml"
    path.write_text(
        f"suite: {suite}\nalgo: ['td3[{TINY}]', '{EXAMPLE}[{TINY}]']\ntask: cartpole-balance\nseeds: 0-2\n"
        "set: {td3.lr: 3e-4, ddpg.noise: 0.2}\n"
    )
    _, out, err = flowbench("run", "--file", path, "--results", results, "--dry-run")
    assert err == ""
    assert "6 cells, 2 to run, 4 done already" in out
    _, out, _ = flowbench("run", "--file", path, "--results", results, "--dry-run", "--seeds", "1")
    assert "2 cells, 0 to run, 2 done already" in out  # the command line wins
    path.write_text(f"suite: {suite}\nalgo: td3[{TINY}]\nseeds: [1]\nsteps: 300\n")
    _, out, _ = flowbench("run", "--file", path, "--results", results, "--dry-run")
    assert "2 cells, 0 to run, 2 done already" in out
    path.write_text(f"suite: {suite}\nalgo: td3[{TINY}]\nseeds: ['0-1']\n")
    _, out, _ = flowbench("run", "--file", path, "--results", results, "--dry-run")
    assert "4 cells, 0 to run, 4 done already" in out


# Algorithms from elsewhere


def point_to(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    points = [EntryPoint(name=name, value=target, group="flowbench.algos") for name, target in targets.items()]
    monkeypatch.setattr(algos.registry, "entry_points", lambda group: points)


def test_an_installed_package_can_bring_an_algorithm(flowbench, tmp_path: Path, monkeypatch) -> None:
    point_to(monkeypatch, mine="example_algorithm:DDPG")
    status, out, err = flowbench("run", "--suite", write_suite(tmp_path), "--task", "pendulum-swingup", "--algo",
                                 f"mine[{TINY}]", "--seeds", "1", "--results", tmp_path / "results", "--quiet",
                                 "--device", "cpu")  # fmt: skip
    assert (status, out, err) == (0, "", "")
    (folder,) = records.folders(tmp_path / "results")
    assert records.read_run(folder).algo.target == "example_algorithm:DDPG"
    assert records.read_run(folder).status == "done"
    _, out, _ = flowbench("list", "algos")
    assert "mine" in out
    assert "Lillicrap" in out


@pytest.mark.parametrize("target", ["no_such_package.module:Agent", "no_such_module:Agent"])
def test_a_package_that_is_half_installed_is_one_line(flowbench, monkeypatch, target: str) -> None:
    point_to(monkeypatch, mine=target)
    status, _, err = flowbench("list", "algos")
    assert status in (0, 2)
    assert err.count("\n") <= 1


def test_two_algorithms_of_one_name_are_refused(flowbench, monkeypatch) -> None:
    point_to(monkeypatch, td3="example_algorithm:DDPG")
    status, out, err = flowbench("list", "algos")
    assert (status, out) == (2, "")
    assert "two algorithms are named 'td3'" in err


# Failing


def test_a_failed_cell_is_named_with_its_log(flowbench, tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path, "Breaks", "raise RuntimeError('went wrong')")
    arguments = ["run", "--suite", write_suite(tmp_path), "--task", "pendulum-swingup", "--algo", spec, "--seeds",
                 "1", "--results", tmp_path / "results", "--device", "cpu"]  # fmt: skip
    status, out, err = flowbench(*arguments, "--quiet")
    (folder,) = records.folders(tmp_path / "results")
    assert (status, out) == (1, "")
    assert err == (
        f"flowbench: breaks pendulum-swingup seed 0 failed: RuntimeError: went wrong; log: {folder / 'log.txt'}\n"
    )
    assert "went wrong" in (folder / "log.txt").read_text()
    _, out, _ = flowbench("status", "--results", tmp_path / "results")
    assert "1 failed (0)" in out
    _, out, _ = flowbench(*arguments, "--dry-run")
    assert "1 to run" in out


class Worker:
    """A stand-in for every worker process: ends with `code` at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.count = 0

        def end() -> str:
            self.count += 1
            return f"import sys; sys.exit({code})"

        monkeypatch.setattr(local.subprocess, "Popen", stand_in(end))


@pytest.mark.parametrize("fail_fast", [True, False])
def test_fail_fast(flowbench, tmp_path: Path, monkeypatch, fail_fast: bool) -> None:
    worker = Worker(monkeypatch, 3)
    options = ["--fail-fast"] if fail_fast else []
    status, out, err = flowbench("run", "--suite", write_suite(tmp_path), "--algo", "td3", "--seeds", "2", "--jobs",
                                 "1", "--results", tmp_path / "results", *options)  # fmt: skip
    assert status == 1
    assert worker.count == (1 if fail_fast else 4)
    assert ("1 failed, 3 skipped" in out) == fail_fast
    assert err.count("failed: the worker exited with 3") == worker.count


def test_a_cell_that_another_process_trains_is_left_to_it(flowbench, tmp_path: Path, no_workers) -> None:
    suite = write_suite(tmp_path)
    arguments = ["run", "--suite", suite, "--task", "pendulum-swingup", "--algo", "td3", "--seeds", "1",
                 "--results", tmp_path]  # fmt: skip
    from flowbench.plan.expand import expand

    (cell,) = expand(suite, ["td3"], "1", tasks=["pendulum-swingup"])
    records.write_run(tmp_path / cell.path, replace(RunRecord.of(cell, [0]), status="running"))
    with lock.hold(tmp_path / cell.path):
        status, out, _ = flowbench(*arguments)
        assert status == 0
        assert "0 to run, 0 done already, 1 running in another process" in out
        _, out, _ = flowbench("status", "--results", tmp_path)
        assert "1 running" in out
    _, out, _ = flowbench("status", "--results", tmp_path)
    assert "1 stopped (0)" in out


# Being interrupted


def one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_grid_says_how_to_go_on_and_goes_on(tmp_path: Path, flowbench, number: int) -> None:
    suite = write_suite(tmp_path, source="gymnasium", tasks=["Pendulum-v1"], steps=1000,
                        evaluation={"every": 50, "episodes": 1}, score={"low": -1500, "high": 0})  # fmt: skip
    results = tmp_path / "results"
    arguments = ["run", "--suite", suite, "--algo", f"td3[{TINY},updates_per_step=2]", "--seeds", "2", "--jobs", "1",
                 "--results", str(results), "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "flowbench.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        preexec_fn=one_core,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "step 50 of 1,000" in line:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "flowbench: interrupted; the same command goes on where it stopped\n"
    assert "1 stopped, 1 skipped" in out
    (folder, other) = records.folders(results)
    assert records.status(folder) == "stopped"
    assert records.read_run(folder).status == "stopped"
    assert records.status(other) == "queued"  # what was asked for is known
    assert (folder / "evals.csv").read_text().splitlines()[1].startswith("50,")
    if number == signal.SIGTERM:
        return  # once is enough
    status, out, _ = flowbench(*arguments, "--seeds", "1")
    assert status == 0
    assert "1 to run" in out
    assert records.status(folder) == "done"
    assert (folder / "evals.csv").read_text().count("\n") == 1 + 20


# Listing


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["--version"], ["list", "suites"], ["list", "algos"]]
)
def test_what_only_prints_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from flowbench import cli; status = cli._status(sys.argv[1:])\n"
        "heavy = {'torch', 'pandas', 'mujoco', 'dm_control', 'gymnasium', 'scipy', 'matplotlib', 'joblib'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment,
                          timeout=60, check=False)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    assert len(done.stdout.splitlines()) > 1


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], ["run", "--help"], ["status", "-h"], ["report", "-h"], ["list", "--help"],
     ["list", "tasks", "-h"], ["list", "params", "-h"]],
)  # fmt: skip
def test_help(flowbench, arguments: list[str]) -> None:
    status, out, err = flowbench(*arguments)
    assert (status, err) == (0, "")
    assert "Usage: " in out


def test_every_option_of_run_is_in_its_help(flowbench) -> None:
    _, out, _ = flowbench("run", "--help")
    for option in ("--suite", "--task", "--algo", "--seeds", "--steps", "--set", "--file", "--results", "--device",
                   "--gpus", "--per-gpu", "--jobs", "--threads", "--dry-run", "--calibrate",
                   "--force", "--fail-fast", "--quiet", "--retries", "--timeout", "--shard"):  # fmt: skip
        assert option in out


def test_the_version(flowbench) -> None:
    assert flowbench("--version") == (0, f"flowbench {package.__version__}\n", "")


def test_listing_suites_and_tasks(flowbench, tmp_path: Path) -> None:
    status, out, _ = flowbench("list", "suites")
    assert status == 0
    for name in ("quick", "dmc-hard", "humanoid-bench"):
        assert re.search(rf"^\s*{name}\s", out, re.MULTILINE)
    status, out, _ = flowbench("list", "tasks", "dmc-hard")
    assert status == 0
    assert re.search(r"^\s*dog-run\s+dm_control\s+0\s+1000\s*$", out, re.MULTILINE)
    assert "pendulum-swingup" in flowbench("list", "tasks", write_suite(tmp_path))[1]


def test_listing_algorithms_and_their_hyperparameters(flowbench) -> None:
    status, out, _ = flowbench("list", "algos")
    assert status == 0
    for name in ("flowrl", "sac", "td3", "qvpo"):
        assert re.search(rf"^\s*{name}\s+\S", out, re.MULTILINE)
    status, out, _ = flowbench("list", "params", "flowrl")
    assert status == 0
    assert re.search(r"^\s*flow_steps\s+int\s+1\s+integration steps", out, re.MULTILINE)
    assert re.search(r"^\s*weights\s+batch or sample\s+batch\s", out, re.MULTILINE)
    assert re.search(r"^\s*gamma\s+float\s+0.99\s+discount factor", out, re.MULTILINE)
    assert re.search(r"^\s*noise\s+float\s+0.2\s", flowbench("list", "params", EXAMPLE)[1], re.MULTILINE)


# Mistakes: one line on stderr, exit status 2, nothing on stdout, nothing begun


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the mistakes below speak of."""
    write_suite(tmp_path)
    write_suite(tmp_path, "bad-task", tasks=["cartpole-balnce"])
    write_suite(tmp_path, "bad-override", overrides={"td3": {"hiden": 1}})
    files = {
        "file": "a file",
        "notes.txt": "no algorithm",
        "fails.py": "raise RuntimeError('at import')",
        "leaves.py": "import sys; sys.exit(0)",
        "syntax.py": "def f(:\n",
        "plain.py": "class Plain: pass\n",
        "td3.py": "from algos.td3 import TD3\n",
        "noconfig.py": "from algos.agent import Agent\nclass Mine(Agent): pass\n",
        "empty.yml": "",
        "list.yml": "- suite\n",
        "key.yml": "suit: quick\n",
        "type.yml": "suite: quick\nalgo: 3\n",
        "steps.yml": "suite: quick\nalgo: td3\nsteps: many\n",
        "seeds.yml": "suite: quick\nalgo: td3\nseeds: 1.5\n",
        "noseeds.yml": "suite: quick\nalgo: td3\nseeds: []\n",
        "date.yml": "suite: quick\nalgo: td3\nseeds: 2024-13-45\n",
        "yaml.yml": "suite: [quick\nalgo: }\n",
        "twice.yml": "suite: quick\nalgo: td3\nalgo: sac\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


GRID = ["run", "--suite", "{}/mini.yaml", "--algo", "td3", "--results", "{}/results"]

MISTAKES = [
    # the command itself
    (["rnu"], ["rnu", "run"]),
    (["run", "--sede", "1"], ["--sede", "--seeds"]),
    (["run", "--seeds"], ["--seeds"]),
    (["run", "extra"], ["extra"]),
    (["list", "suite"], ["suite", "suites"]),
    # what to run
    (["run"], ["--suite"]),
    (["run", "--suite", "quick"], ["--algo"]),
    (["run", "--suite", "", "--algo", "td3"], ["--suite"]),
    (["run", "--suite", "dmc-hrad", "--algo", "td3"], ["dmc-hrad", "dmc-hard"]),
    (["run", "--suite", "{}/none.yaml", "--algo", "td3"], ["none.yaml"]),
    (["run", "--suite", "{}/bad-task.yaml", "--algo", "td3"], ["cartpole-balnce", "cartpole-balance"]),
    (["run", "--suite", "{}/bad-override.yaml", "--algo", "td3"], ["hiden", "hidden", "bad-override"]),
    ([*GRID, "--task", "cartpole-balanc"], ["cartpole-balanc", "'cartpole-balance'"]),
    # algorithms
    ([*GRID, "--algo", "flowlr"], ["flowlr", "'flowrl'"]),
    ([*GRID, "--algo", "sac[lr=fast]"], ["lr='fast'", "number"]),
    ([*GRID, "--algo", "sac[lrr=1]"], ["lrr", "'lr'"]),
    ([*GRID, "--algo", "sac[lr=1"], ["sac[lr=1"]),
    ([*GRID, "--algo", "sac[lr]"], ["sac[lr]"]),
    ([*GRID, "--algo", "sac[hidden=0]"], ["hidden", "0"]),
    ([*GRID, "--algo", "sac[gamma=nan]"], ["gamma", "nan"]),
    ([*GRID, "--algo", "sac[target_entropy_scale=nan]"], ["target_entropy_scale", "nan"]),
    ([*GRID, "--algo", "flowrl[scheme=midpiont]"], ["midpiont", "midpoint"]),
    ([*GRID, "--algo", "td3"], ["td3", "same"]),
    ([*GRID, "--algo", ""], ["''"]),
    ([*GRID, "--algo", "{}/none.py:Mine"], ["none.py"]),
    ([*GRID, "--algo", "{}/fails.py:Mine"], ["fails.py", "at import"]),
    ([*GRID, "--algo", "{}/leaves.py:Mine"], ["leaves.py"]),
    ([*GRID, "--algo", "{}/syntax.py:Mine"], ["syntax.py", "SyntaxError"]),
    ([*GRID, "--algo", "{}/plain.py:Plain"], ["plain.py", "'Plain'"]),
    ([*GRID, "--algo", "{}/plain.py:Plan"], ["plain.py", "'Plan'"]),
    ([*GRID, "--algo", "{}/td3.py:TD3"], ["td3", "rename"]),
    ([*GRID, "--algo", "{}/noconfig.py:Mine"], ["noconfig.py", "Config"]),
    ([*GRID, "--algo", "{}/notes.txt:Mine"], ["notes.txt"]),
    # settings
    ([*GRID, "--set", "lr"], ["'lr'", "key=value"]),
    ([*GRID, "--set", "lr="], ["'lr='", "key=value"]),
    ([*GRID, "--set", "hiden=8"], ["hiden", "'hidden'"]),
    ([*GRID, "--set", "td.lr=1"], ["'td'", "'td3'"]),
    ([*GRID, "--set", "td3.hiden=8"], ["hiden", "'hidden'"]),
    ([*GRID, "--set", "hidden=8.5"], ["hidden='8.5'", "integer"]),
    ([*GRID, "--set", "tau=2"], ["tau", "2"]),
    # numbers
    ([*GRID, "--seeds", "five"], ["five"]),
    ([*GRID, "--seeds", "0"], ["'0'", "0-0"]),
    ([*GRID, "--seeds", "3-1"], ["3-1"]),
    ([*GRID, "--seeds", "auto"], ["'auto'", "auto:20"]),
    ([*GRID, "--seeds", "auto:1"], ["'auto:1'", "auto:20"]),
    ([*GRID, "--seeds", "auto:20"], ["auto:20", "two", "--algo"]),
    ([*GRID, "--algo", "sac", "--seeds", "auto:20", "--shard", "1/2"], ["--shard", "--seeds auto"]),
    ([*GRID, "--seeds", "1,1"], ["1,1"]),
    ([*GRID, "--seeds", ""], ["seeds"]),
    ([*GRID, "--seeds", "99999999999"], ["99999999999"]),
    ([*GRID, "--seeds", "9" * 5000], ["seeds"]),
    ([*GRID, "--threads", "99999999999"], ["--threads", "99999999999", "1,024"]),
    ([*GRID, "--timeout", ""], ["--timeout", "''"]),
    ([*GRID, "--shard", ""], ["--shard", "''"]),
    (["status", "--results", "{}/" + "x" * 300], ["xxx"]),
    ([*GRID, "--steps", "0"], ["--steps", "0"]),
    ([*GRID, "--steps", "-5"], ["--steps", "-5"]),
    ([*GRID, "--steps", "1.5"], ["--steps", "1.5"]),
    ([*GRID, "--jobs", "0"], ["--jobs"]),
    ([*GRID, "--jobs", "two"], ["--jobs", "two"]),
    ([*GRID, "--retries", "-1"], ["--retries", "-1", "at least 0"]),
    ([*GRID, "--timeout", "soon"], ["--timeout", "soon", "90m"]),
    ([*GRID, "--shard", "9/8"], ["--shard", "9/8", "1/8 to 8/8"]),
    # where
    ([*GRID, "--device", "gpu"], ["gpu", "cuda"]),
    ([*GRID, "--device", "cdua"], ["cdua", "'cuda'"]),
    ([*GRID, "--device", "cpu", "--gpus", "0"], ["--gpus '0'", "--device cpu"]),
    ([*GRID, "--device", "cpu", "--per-gpu", "2"], ["--per-gpu", "--jobs"]),
    ([*GRID, "--device", "cpu", "--per-gpu", "auto"], ["--per-gpu", "--jobs"]),
    ([*GRID, "--per-gpu", "none"], ["--per-gpu", "'none'"]),
    ([*GRID, "--threads", "0"], ["--threads", "'0'"]),
    ([*GRID, "--results", "{}/file"], ["file"]),
    ([*GRID, "--results", "{}/file/below"], ["file/below"]),
    # grid files
    (["run", "--file", "{}/none.yml"], ["none.yml"]),
    (["run", "--file", "{}"], ["cannot be read"]),
    (["run", "--file", "{}/empty.yml"], ["empty.yml"]),
    (["run", "--file", "{}/list.yml"], ["list.yml", "list"]),
    (["run", "--file", "{}/key.yml"], ["key.yml", "'suit'", "'suite'"]),
    (["run", "--file", "{}/type.yml"], ["type.yml", "algo"]),
    (["run", "--file", "{}/steps.yml"], ["steps.yml", "steps", "many"]),
    (["run", "--file", "{}/seeds.yml"], ["seeds.yml", "seeds"]),
    (["run", "--file", "{}/noseeds.yml", "--dry-run"], ["seeds"]),
    (["run", "--file", "{}/date.yml"], ["date.yml"]),
    (["run", "--file", "{}/yaml.yml"], ["yaml.yml", "YAML"]),
    (["run", "--file", "{}/twice.yml", "--dry-run"], ["twice.yml", "algo"]),
    # looking
    (["status", "--results", "{}/none"], ["none"]),
    (["status", "--results", "{}/file"], ["file"]),
    (["status", "--results", "{}/runs", "--suite", "mni"], ["'mni'", "mini"]),
    (["report", "--results", "{}/none"], ["none"]),
    (["report", "--results", "{}/runs", "--algo", "tdd3"], ["'tdd3'", "td3"]),
    (["report", "--results", "{}/runs", "--format", "markdwn"], ["markdwn", "'markdown'"]),
    (["report", "--results", "{}/runs", "--step", "0"], ["--step"]),
    (["report", "--results", "{}/runs", "--step", "7"], ["7"]),
    (["report", "--results", "{}/runs", "--reps", "0"], ["--reps"]),
    (["report", "--results", "{}/runs", "--seed", "-1"], ["--seed"]),
    (["report", "--results", "{}/runs", "--thin"], ["--thin", "--figures"]),
    (["compare", "td3", "tdd3", "--results", "{}/runs"], ["'tdd3'", "'td3'"]),
    (["compare", "td3", "td3", "--results", "{}/runs"], ["'td3'", "itself"]),
    (["compare", "td3", "ddpg", "--results", "{}/runs", "--format", "csv"], ["'csv'", "markdown"]),
    (["list", "tasks"], ["SUITE"]),
    (["list", "tasks", "dmc-esy"], ["dmc-esy", "'dmc-easy'"]),
    (["list", "params", "flowlr"], ["flowlr", "'flowrl'"]),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line(flowbench, folder: Path, no_workers, arguments: list[str], words: list[str]) -> None:
    cell = make_cell(suite=make_suite(steps=40, every=20))
    records.write_run(folder / "runs" / cell.path, replace(RunRecord.of(cell, [0]), status="done"))
    (folder / "runs" / cell.path / "evals.csv").write_text("step,mean\n20,-100\n40,-50\n")
    status, out, err = flowbench(*(argument.replace("{}", str(folder)) for argument in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("flowbench: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (folder / "results").exists()


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_without_a_command_it_shows_what_there_is(flowbench, arguments: list[str]) -> None:
    status, out, err = flowbench(*arguments)
    assert status == 2
    assert "Commands" in out
    assert err.count("\n") == 1


# What a reader or a missing package may do to a grid


def test_a_grid_goes_on_when_its_reader_has_gone(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, source="gymnasium", tasks=["Pendulum-v1"], steps=200,
                        evaluation={"every": 50, "episodes": 1}, score={"low": -1500, "high": 0})  # fmt: skip
    results = tmp_path / "results"
    arguments = ["run", "--suite", suite, "--algo", f"td3[{TINY}]", "--seeds", "2", "--jobs", "1",
                 "--results", str(results), "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "flowbench.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=one_core,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert [records.status(folder) for folder in records.folders(results)] == ["done", "done"]


@pytest.mark.parametrize("arguments", [["list", "suites"], ["list", "params", "sac"]])
def test_a_reader_that_has_gone_is_no_failure(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    command = [sys.executable, "-m", "flowbench.cli", *arguments]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_grid_goes_on_when_its_output_cannot_be_written(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments = ["run", "--suite", write_suite(tmp_path), "--algo", f"td3[{TINY}]", "--seeds", "1", "--jobs", "1",
                 "--task", "pendulum-swingup", "--results", str(results), "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    with open("/dev/full", "w") as full:
        subprocess.run(
            [sys.executable, "-u", "-m", "flowbench.cli", *arguments], stdout=full, stderr=subprocess.PIPE,
            env=environment, check=False,
        )  # fmt: skip
    assert [records.status(folder) for folder in records.folders(results)] == ["done"]


def test_a_package_that_a_source_needs_is_asked_for_before_anything_starts(flowbench, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "humanoid_bench", None)  # as if it were not installed
    arguments = ["run", "--suite", "humanoid-bench", "--algo", "td3", "--seeds", "1", "--results", tmp_path / "r"]
    status, out, err = flowbench(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "pip install" in err
    assert not (tmp_path / "r").exists()
    status, out, _ = flowbench(*arguments, "--dry-run")
    assert status == 0
    assert "before this can run: h1 tasks need HumanoidBench" in out


def test_a_short_trial_does_not_draw_the_report_to_its_steps(grid, flowbench, tmp_path: Path) -> None:
    _, results = grid
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    suite = expand(str(results.parent / "mini.yaml"), [f"td3[{TINY}]"], "1", steps=150)
    for cell in suite:
        records.write_run(copy / cell.path, replace(RunRecord.of(cell, [0]), status="done"))
        (copy / cell.path / "evals.csv").write_text("step,mean\n150,1\n")
    _, out, _ = flowbench("report", "--results", copy)
    assert "at step 300 of 300" in out
    assert "steps=150] is left out: it trains for 150 steps only (include it with --step 150)" in " ".join(out.split())
    _, out, _ = flowbench("report", "--results", copy, "--step", "150")
    assert "left out" not in out


def test_runs_of_different_software_are_named(grid, flowbench, tmp_path: Path) -> None:
    _, results = grid
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    folder = next(records.folders(copy))
    run = records.read_run(folder)
    records.write_run(folder, replace(run, versions={**run.versions, "torch": "1.0"}))
    _, out, _ = flowbench("report", "--results", copy)
    said = " ".join(out.split())
    here = f"torch {run.versions['torch']}"
    assert f"its runs differ in software, device or threads: {here} | {here}; then torch 1.0" in said
    assert "numpy" not in said  # what they have in common
    records.write_run(folder, replace(run, threads=run.threads + 1))
    _, out, _ = flowbench("report", "--results", copy)
    assert f"with {run.threads + 1} threads" in " ".join(out.split())
    _, out, _ = flowbench("report", "--results", results)
    assert "differ in software" not in out


def test_reports_take_names_as_run_does(grid, flowbench) -> None:
    arguments, results = grid
    suite = arguments[arguments.index("--suite") + 1]
    status, out, _ = flowbench("status", "--results", results, "--suite", suite, "--algo", "td3,ddpg")
    assert (status, "8 done" in out) == (0, True)
    status, _, err = flowbench("report", "--results", results, "--algo", "tdd3")
    assert status == 2
    assert "did you mean 'td3'" in err
