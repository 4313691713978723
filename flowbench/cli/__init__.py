"""The command line: parse, call, print. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

from flowbench import __version__
from flowbench.cli.app import app

# A module each, in the order that help shows them.
COMMANDS = (
    "run",
    "status",
    "watch",
    "report",
    "compare",
    "import_",
    "export",
    "eval",
    "bench",
    "paper",
    "doctor",
    "lists",
)

for _command in COMMANDS:
    import_module(f"flowbench.cli.{_command}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and leave with its exit status: 0, 1 (a cell failed), 2 (usage), 130 (interrupted)."""
    sys.exit(_status(arguments))


def _status(arguments: list[str] | None) -> int:
    try:
        return app(arguments, standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:  # `flowbench report | head`
        sys.stderr.close()
        return 0
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # what rich makes of it
            return 0
        raise
    except _mistakes() as error:
        return _complain(str(error), 2)
    except OSError as error:  # a path that cannot be used is a mistake, too; a full disk under the output is none
        return _complain(f"{error.filename!r}: {error.strerror}", 2) if error.filename else _complain(str(error), 1)
    except Exception as error:
        # Typer's own usage errors have no base class that all its versions share, but all carry this method.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message() or "choose a command"
        return _complain(f"{message} (flowbench --help tells more)", 2)


def _mistakes() -> tuple[type[ValueError], ...]:
    """The errors that are a user's mistake; any other is a fault of ours and keeps its traceback."""
    from algos import AlgorithmError
    from flowbench.common.errors import UsageError
    from suites import SuiteError

    return UsageError, SuiteError, AlgorithmError


def _complain(message: str, status: int) -> int:
    print("flowbench: " + " ".join(message.split()), file=sys.stderr)
    return status


def _version(asked: bool) -> None:
    if asked:
        print(f"flowbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
