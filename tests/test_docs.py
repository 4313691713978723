"""Every command that the documentation shows is run, and what it quotes is what is there."""

from __future__ import annotations

import glob
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

import suites
from algos import flow, flowrl
from flowbench import cli
from flowbench.cli.app import app, list_app
from flowbench.plan.expand import expand
from flowbench.store import records, weights
from flowbench.store.csv_rows import RowWriter
from flowbench.store.records import RunRecord

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "benchmarks" / "learning" / "README.md",
    ROOT / "results" / "README.md",
]
# What makes a documented command cheap; of an option given twice the later one counts.
CHEAP = {
    "run": ["--dry-run"],
    "watch": ["--once"],
    "paper": ["--dry-run"],
    "eval": ["--episodes", "1"],
    "bench": ["--set", "hidden=8", "--threads", "1", "--device", "cpu"],
    "bench --loop": ["--steps", "20", "--stack", "1"],
    "bench updates": ["--obs", "3", "--act", "1", "--batch", "4", "--seconds", "0.02"],
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def commands() -> list[tuple[str, str]]:
    """(page, command) for every line of every console block, comments cut off."""
    return [
        (page.name, line.partition("  #")[0].strip())
        for page in PAGES
        for text in blocks(page, "console")
        for line in text.splitlines()
        if line.strip()
    ]


def examples() -> list[tuple[str, str]]:
    """(source, command) for the example in every command's help."""
    named = [*app.registered_commands, *list_app.registered_commands]
    # A backslash keeps rich from taking a bracket for its own.
    return [("--help", str(command.epilog).removeprefix("Example: ").replace("\\[", "[")) for command in named]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder to run the commands in: the files they name, and results of the suite they report on."""
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for text in blocks(page, "yaml"):  # named by its first line
            Path(text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        for text in blocks(page, "csv"):
            Path("curves.csv").write_text(text, encoding="utf-8")
    Path("path/to").mkdir(parents=True)
    example = ROOT / "tests" / "support" / "example_algorithm.py"
    Path("path/to/example_algorithm.py").write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    for cell in expand("quick", ["flowrl,sac,td3,qvpo"], "3"):
        folder = Path("results") / cell.path
        records.write_run(folder, replace(RunRecord.of(cell, [cell.seed]), status="done"))
        writer = RowWriter(folder / "evals.csv", ["step", "mean"])
        for step in range(1000, cell.variant.protocol.steps + 1, 1000):
            writer.append({"step": step, "mean": step / 10 + cell.seed})
        writer.close()
    sac = next(cell for cell in expand("quick", ["sac"], "1") if cell.task.name == "cartpole-swingup")
    record = replace(RunRecord.of(sac, [0]), threads=1)
    agent = sac.variant.entry.load()(5, 1, sac.variant.config)
    weights.write(Path("results") / sac.path, record, 1000, 5, 1, agent.state_dict())
    for kept in ("results/cpu", "benchmarks/learning"):
        Path(kept).parent.mkdir(exist_ok=True)
        Path(kept).symlink_to(ROOT / kept)
    return tmp_path


def expanded(argument: str) -> list[str]:
    """What the shell makes of an argument."""
    return sorted(glob.glob(argument)) or [argument]


@pytest.mark.parametrize(("page", "command"), [*commands(), *examples()])
def test_a_documented_command_works(page, command, workplace, capfd):
    command = command.partition(" > ")[0]  # where the output goes is the shell's affair
    program, *arguments = shlex.split(command)
    arguments = [found for each in arguments for found in expanded(each)]
    if program == "flowbench":
        if "--peers" in arguments:
            pytest.importorskip("stable_baselines3")
        cheap = [*CHEAP.get(arguments[0], [])]
        if arguments[0] == "bench":
            cheap += CHEAP["bench --loop" if "--loop" in arguments else "bench updates"]
        assert cli._status([*arguments, *cheap]) == 0, capfd.readouterr().err
        assert capfd.readouterr().out
    elif program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extra in re.findall(r"\.\[([\w,]+)\]", command):
            assert set(extra.split(",")) <= set(project["optional-dependencies"])
        assert arguments[0] == "install"
    else:
        assert program in ("git", "cd"), f"{page}: nothing here runs {command!r}"


def test_the_documentation_shows_commands():
    shown = {(page, command.split()[0]) for page, command in commands()}
    assert {("README.md", "make"), ("README.md", "flowbench"), ("CONTRIBUTING.md", "flowbench")} <= shown


def test_every_command_has_an_example_in_its_help():
    assert all(command.startswith("flowbench ") for _, command in examples())


def test_contributing_shows_the_algorithm_that_the_tests_train():
    source = (ROOT / "tests" / "support" / "example_algorithm.py").read_text(encoding="utf-8")
    assert source in blocks(ROOT / "CONTRIBUTING.md", "python")


def test_every_suite_is_in_the_table_of_suites():
    table = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
    for name in suites.names():
        count = len(suites.load(name, check_tasks=False).tasks)
        assert f"| `{name}` | {count} |" in table


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_set_that_is_tested_is_pinned_exactly():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; python_version >= \"3\.11\")?", pin) for pin in pins)
    names = {re.split("==", pin)[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[<>=;\s]", need)[0].lower().replace("_", "-") for need in project["dependencies"]}
    assert wanted <= names


def test_every_equation_stands_beside_a_function_that_is_there() -> None:
    page = (ROOT / "docs" / "flowrl.md").read_text(encoding="utf-8")
    table = page[page.index("| paper |") :].partition("\n\n")[0]
    named = re.findall(r"`(\w+)\.(\w+)`", table)
    assert len(named) >= 10
    homes = {"FlowRL": flowrl.FlowRL, "flowrl": flowrl, "flow": flow}
    assert [name for home, name in named if not callable(getattr(homes[home], name, None))] == []
