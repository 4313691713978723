"""The documentation is true: its commands run, its links lead somewhere, and what it names exists."""

from __future__ import annotations

import glob
import itertools
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import yaml
from msgspec.structs import replace

import flowbench
import suites
from algos import flow, flowrl
from flowbench import api, cli
from flowbench.cli.app import app, list_app
from flowbench.cli.new import new_app
from flowbench.cli.results import results_app
from flowbench.plan.expand import expand
from flowbench.store import records, weights
from flowbench.store.csv_rows import RowWriter
from flowbench.store.records import RunRecord
from tests.test_imports import ARROWS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # a dependency of pytest there

ROOT = Path(__file__).parent.parent
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [
    ROOT / "README.md",
    CONTRIBUTING,
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
    ROOT / "results" / "README.md",
]
EXAMPLE = ROOT / "tests" / "support" / "example_algorithm.py"
SITE = runpy.run_path(str(ROOT / "docs" / "conf.py"))
# Options that make a documented command cheap. If an option is given twice, the later one counts.
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


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [block for name, block in BLOCK.findall(text(page)) if name == language]


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    return found


def documented() -> dict[str, str]:
    """Every line of every console block without its comment, with the first page that has it."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in filter(None, map(str.strip, block.splitlines())):
                found.setdefault(line.partition("  #")[0].strip(), page.name)
    return found


def in_help() -> list[str]:
    """The example in the help of every command."""
    commands = [command for each in (app, list_app, new_app, results_app) for command in each.registered_commands]
    # A backslash protects a bracket from rich.
    return [str(command.epilog).removeprefix("Example: ").replace("\\[", "[") for command in commands]


FLOWBENCH = [command for command in dict.fromkeys([*documented(), *in_help()]) if command.startswith("flowbench ")]
OTHERS = [command for command in documented() if command not in FLOWBENCH]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that documented commands name, and with results of the suite that they report on."""
    folder = tmp_path_factory.mktemp("template")
    for page in PAGES:
        for block in blocks(page, "yaml"):  # its first line is the name of the file
            (folder / block.splitlines()[0].removeprefix("# ")).write_text(block, encoding="utf-8")
        for block in blocks(page, "csv"):
            (folder / "curves.csv").write_text(block, encoding="utf-8")
    (folder / "path" / "to").mkdir(parents=True)
    shutil.copy(EXAMPLE, folder / "path" / "to")
    for cell in expand("quick", ["flowrl,sac,td3,qvpo"], "3"):
        run = folder / "results" / cell.path
        records.write_run(run, replace(RunRecord.of(cell, [cell.seed]), status="done"))
        writer = RowWriter(run / "evals.csv", ["step", "mean"])
        for step in range(1000, cell.variant.protocol.steps + 1, 1000):
            writer.append({"step": step, "mean": step / 10 + cell.seed})
        writer.close()
    sac = next(cell for cell in expand("quick", ["sac"], "1") if cell.task.name == "cartpole-swingup")
    record = replace(RunRecord.of(sac, [0]), threads=1)
    agent = sac.variant.entry.load()(5, 1, sac.variant.config)
    weights.write(folder / "results" / sac.path, record, 1000, 5, 1, agent.state_dict())
    (folder / "benchmarks").mkdir()
    for kept in ("results/cpu", "results/cpu-bfloat16", "benchmarks/learning"):
        (folder / kept).symlink_to(ROOT / kept)
    return folder


def _repeats(run: Path, folders: list[Path], *_: object) -> int:
    """What a worker would leave that repeats a run."""
    for folder in folders:
        shutil.copy(run / "evals.csv", folder)
        records.write_run(folder, replace(records.read_run(folder), status="done"))
    return 0


@pytest.mark.parametrize("command", FLOWBENCH)
def test_a_documented_command_of_flowbench_works(
    command: str,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.partition(" > ")[0])[1:]  # the shell would redirect the output
    arguments = [found for word in words for found in sorted(glob.glob(word)) or [word]]
    if "--peers" in arguments:
        pytest.importorskip("stable_baselines3")
    cheap = [*CHEAP.get(arguments[0], [])]
    if arguments[0] == "bench":
        cheap += CHEAP["bench --loop" if "--loop" in arguments else "bench updates"]
    if arguments[0] == "verify":
        monkeypatch.setattr("flowbench.evaluate.verify.LocalExecutor.work", partial(_repeats, Path(arguments[1])))
    assert cli._status([*arguments, *cheap]) == 0, capfd.readouterr().err
    assert capfd.readouterr().out


@pytest.mark.parametrize("command", OTHERS)
def test_what_another_documented_command_names_is_there(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":
        assert arguments[0] == "install"
        for extras in re.findall(r"\.\[([\w,]+)\]", command):
            assert set(extras.split(",")) <= set(project()["optional-dependencies"])
    elif program in ("pytest", "python"):
        assert (ROOT / arguments[0]).exists()
    else:
        assert program in ("git", "cd"), f"{documented()[command]}: no test runs {command!r}"


def test_the_documentation_shows_commands() -> None:
    for page, command in (("README.md", "make "), ("README.md", "flowbench run"), ("CONTRIBUTING.md", "make lint")):
        assert any(line.startswith(command) for block in blocks(ROOT / page, "console") for line in block.splitlines())


def test_every_command_has_an_example_in_its_help() -> None:
    assert all(command.startswith("flowbench ") for command in in_help())


def test_the_documentation_shows_the_algorithm_that_the_tests_train() -> None:
    assert text(EXAMPLE) in blocks(ROOT / "docs" / "adding-an-algorithm.md", "python")


@pytest.mark.slow
def test_the_tutorial_draws_its_own_figure(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "cpu").symlink_to(template / "results" / "cpu")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    (code,) = blocks(ROOT / "docs" / "paper-figure.md", "python")
    exec(code, {})
    assert (tmp_path / "iqm.pdf").stat().st_size > 1000


def test_contributing_lists_the_packages_with_their_imports_from_top_to_bottom() -> None:
    listing = next(block for block in blocks(CONTRIBUTING, "text") if block.startswith("package "))
    rows = dict(re.findall(r"^(\w+) .* → (.*)$", listing, re.MULTILINE))
    # The version in flowbench/__init__.py and the command in flowbench/__main__.py are no packages of their own.
    assert rows.keys() == ARROWS.keys() - {"flowbench", "__main__"}
    order = ["__main__", *rows]
    for package, targets in ARROWS.items():
        targets = targets - {"flowbench"}
        assert all(order.index(target) > order.index(package) for target in targets), f"{package} stands too low"
        if package not in ("cli", "__main__"):  # any package
            named = set(re.sub(r"\(.*?\)|nothing", "", rows.get(package, "")).split())
            assert named == targets, f"{package} → {' '.join(sorted(targets)) or 'nothing'}"


def test_contributing_names_files_and_what_is_in_them() -> None:
    page = text(CONTRIBUTING)
    paths = re.findall(r"`((?:algos|docs|flowbench|suites|tests)/[\w/.-]*)`", page)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
    named = re.findall(r"`([\w/]+\.py)` \(((?:`\w+`(?:, )?)+)\)", page)
    assert len(named) > 10
    missing = [
        f"{path}: {name}"
        for path, names in named
        for name in re.findall(r"\w+", names)
        if not re.search(rf"\b{name}\b", text(ROOT / path))
    ]
    assert missing == []


def test_every_suite_is_in_the_table_of_suites() -> None:
    table = text(ROOT / "docs" / "suites.md")
    for name in suites.names():
        assert f"| `{name}` | {len(suites.load(name, check_tasks=False).tasks)} |" in table


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text(page)):
            found = (page.parent / target).resolve() if target else page
            # A page that is not part of the site, such as a README elsewhere, would be a broken link there.
            there = found in PAGES if found.suffix == ".md" else found.is_file()
            if not there or (anchor and anchor not in anchors(found)):
                broken.append(f"{page.name}: {target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_headings_skip_no_level(page: Path) -> None:
    """The builder of the site warns otherwise."""
    prose = re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_page_is_in_the_navigation_of_the_site_once() -> None:
    listed = [f"{page}.md" for pages in SITE["NAVIGATION"].values() for page in pages]
    assert sorted([SITE["root_doc"] + ".md", *listed]) == sorted(str(page.relative_to(ROOT)) for page in PAGES)


def test_the_reference_of_the_commands_has_every_option_and_example(capsys: pytest.CaptureFixture[str]) -> None:
    reference = SITE["commands"]()
    titles = re.findall(r"^## flowbench (.*)$", reference, re.MULTILINE)
    assert len(titles) == len(set(titles)) >= len(app.registered_commands) + 2
    sections = dict(zip(titles, re.split(r"^## flowbench .*$", reference, flags=re.MULTILINE)[1:], strict=True))
    for title, section in sections.items():
        cli._status([*title.split(), "--help"])
        options = set(re.findall(r"^│ \*? *(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
        options.discard("--help")  # every command has it
        missing = {option for option in options if not re.search(rf"^\| `.*{option}\b", section, re.MULTILINE)}
        assert missing == set(), f"flowbench {title}"
    assert all(example in reference for example in in_help())


def test_the_reference_of_the_python_api_has_every_function() -> None:
    shown = {name for files in SITE["SHOWN"].values() for names in files.values() for name in names}
    assert set(flowbench.API) | set(api.__all__) <= shown
    reference = SITE["definitions"]()
    assert all(f"### fb.{name}\n```python\ndef {name}(" in reference for name in flowbench.API)
    assert all(f"### {name}\n" in reference for name in shown - set(flowbench.API))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package)
    (rule,) = re.findall(r"-m sphinx (.*) build/site", text(ROOT / "Makefile"))
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *rule.split(), str(tmp_path), "-d", str(tmp_path / "doctrees")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "flowbench results merge" in text(tmp_path / "docs" / "commands.html")
    assert text(tmp_path / "index.html") == text(tmp_path / "README.html")


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load(text(ROOT / "CITATION.cff"))
    assert citation["version"] == flowbench.__version__
    assert citation["license"] == project()["license"]
    assert citation["title"] in text(ROOT / "README.md")
    (paper,) = citation["references"]
    assert paper["title"] in text(ROOT / "docs" / "flowrl.md")


def test_the_workflow_covers_every_python_that_is_supported() -> None:
    workflow = yaml.safe_load(text(ROOT / ".github" / "workflows" / "ci.yml"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Python :: (3\.\d+)", text(ROOT / "pyproject.toml"))
    assert versions == named
    lowest, beyond = re.findall(r"3\.(\d+)", project()["requires-python"])
    assert versions == [f"3.{minor}" for minor in range(int(lowest), int(beyond))]
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    for target in ("lint", "test", "docs"):
        assert f"make {target}" in commands


def test_the_set_that_is_tested_is_pinned_exactly() -> None:
    pins = [line for line in text(ROOT / "constraints.txt").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; python_version >= \"3\.11\")?", pin) for pin in pins)
    names = {re.split("==", pin)[0].lower().replace("_", "-") for pin in pins}
    needs = {re.split(r"[<>=;\s]", need)[0].lower().replace("_", "-") for need in project()["dependencies"]}
    assert needs <= names


def test_every_equation_is_next_to_a_function_that_exists() -> None:
    page = text(ROOT / "docs" / "flowrl.md")
    table = page[page.index("| paper |") :].partition("\n\n")[0]
    named = re.findall(r"`(\w+)\.(\w+)`", table)
    assert len(named) >= 10
    homes = {"FlowRL": flowrl.FlowRL, "flowrl": flowrl, "flow": flow}
    assert [name for home, name in named if not callable(getattr(homes[home], name, None))] == []


def test_the_image_gets_what_pip_needs_and_nothing_else() -> None:
    kept = {line[1:] for line in text(ROOT / ".dockerignore").splitlines() if line.startswith("!")}
    found = tomllib.loads(text(ROOT / "pyproject.toml"))["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.rstrip("*") for pattern in found}
    assert kept == packages | {"pyproject.toml", "constraints.txt", project()["readme"], *project()["license-files"]}
