"""The documentation site; `make docs` builds it with Sphinx.

The pages are the Markdown files of this repository as they are, and README.md is the first. Three things are added when
the site is built: the navigation, the reference of the commands and the reference of the Python API.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flowbench

ROOT = Path(__file__).parent.parent
# Every page of the site, by its path without the suffix. README is the start page.
NAVIGATION = {
    "First steps": ["docs/concepts", "docs/paper-figure", "docs/faq", "docs/other-tools"],
    "Guides": [
        "docs/grids",
        "docs/suites",
        "docs/adding-a-suite",
        "docs/adding-an-algorithm",
        "docs/cluster",
        "docs/reading-a-report",
        "docs/comparing-algorithms",
        "docs/results",
        "docs/python-api",
        "docs/flowrl",
    ],
    "Reference": ["docs/commands", "docs/api-reference", "docs/files", "docs/faults"],
    "Measurements": [
        "benchmarks/README",
        "benchmarks/learning/README",
        "benchmarks/humanoid-random",
        "benchmarks/GPU",
        "results/README",
    ],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}

project = "flowbench"
author = "the flowbench maintainers"
version = release = flowbench.__version__
root_doc = "README"
include_patterns = [f"{root_doc}.md", *(f"{page}.md" for pages in NAVIGATION.values() for page in pages)]
exclude_patterns = [".*", "build", "results/cpu"]  # not searched for pages, which saves time
extensions = ["myst_parser"]
myst_heading_anchors = 4
smartquotes = False  # "--help" has two hyphens
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_title = f"flowbench {release}"
html_copy_source = False


def navigation() -> str:
    """The contents of the side bar, for the end of the start page."""
    lists = ("\n".join([caption, "", *map("/{}".format, pages)]) for caption, pages in NAVIGATION.items())
    return "".join(f"\n```{{toctree}}\n:hidden:\n:caption: {each}\n```\n" for each in lists)


def commands() -> str:
    """Every command with its arguments, its options and its example, as `--help` prints them."""
    import typer.main

    from flowbench import cli

    return "\n".join(_command(typer.main.get_command(cli.app), "flowbench", None))


def _command(command: Any, name: str, parent: Any) -> Iterator[str]:
    from rich.text import Text

    def shown(help: str, rest: str = "") -> str:
        return re.sub(r"([\\*_\[\]<>|])", r"\\\1", Text.from_markup(help).plain + rest)

    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    if parent:
        yield f"\n## {context.command_path}\n"
    yield shown(command.help) + "\n"
    tables: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        if parameter.name != "help" and (record := parameter.get_help_record(context)):
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            usage, meaning = record[0].replace("|", r"\|"), record[1].removeprefix(parameter.help)
            row = f"| `{usage}` | {shown(parameter.help, meaning)} |"
            tables.setdefault(parameter.rich_help_panel or kind, []).append(row)
    for title, rows in tables.items():
        yield "\n".join([f"| {title} | |", "| --- | --- |", *rows, ""])
    if command.epilog:
        example = Text.from_markup(command.epilog).plain.removeprefix("Example: ")
        yield f"```console\n{example}\n```\n"
    for each in getattr(command, "commands", {}).values():
        yield from _command(each, each.name, context)


# What the reference of the Python API shows: of functions the signature and the docstring, of classes the source.
SHOWN = {
    "Functions": {"flowbench/api/grids.py": ["run", "load", "report", "compare"], "flowbench/api/agent.py": ["train"]},
    "What the functions return": {
        "flowbench/store/load.py": ["Results"],
        "flowbench/report/assemble.py": ["Report", "Section"],
        "flowbench/report/comparison.py": ["Comparisons", "Comparison"],
        "flowbench/api/agent.py": ["TrainedAgent"],
    },
    "The interface of an algorithm": {"algos/agent.py": ["Batch", "Config", "Adam", "Learner", "Agent"]},
}


def definitions() -> str:
    """The functions of `import flowbench as fb`, what they return, and the interface of an algorithm."""
    lines = []
    for title, files in SHOWN.items():
        lines.append(f"## {title}")
        for file, names in files.items():
            text = (ROOT / file).read_text(encoding="utf-8")
            nodes = {getattr(node, "name", ""): node for node in ast.parse(text).body}
            for name in names:
                node: Any = nodes[name]
                function = isinstance(node, ast.FunctionDef)
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
                last = node.body[0].lineno - 1 if function else node.end_lineno
                lines += [f"### {'fb.' if function else ''}{name}", "```python", *text.splitlines()[first:last], "```"]
                lines += [ast.get_docstring(node)] if function else []
    return "\n".join(lines) + "\n"


# What the site adds to the end of a page.
ADDED = {root_doc: navigation, "docs/commands": commands, "docs/api-reference": definitions}


def setup(app: Any) -> None:
    """Sphinx calls this function."""

    def add(_: Any, page: str, source: list[str]) -> None:
        if page in ADDED:
            source[0] += "\n" + ADDED[page]()

    def front_page(app: Any, error: Exception | None) -> None:
        if not error:
            shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))

    from pygments.lexers.special import TextLexer

    app.add_lexer("csv", TextLexer)  # Pygments knows no such language
    app.connect("source-read", add)
    app.connect("build-finished", front_page)
