"""The command line: parse, call, print. Each command imports the heavy libraries that it needs when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated

import typer

from flowbench import __version__, hidden
from flowbench.cli.app import app

# One module per command, in the order of the help.
COMMANDS = (
    "run",
    "status",
    "watch",
    "report",
    "compare",
    "results",
    "import_",
    "export",
    "eval",
    "verify",
    "bench",
    "paper",
    "doctor",
    "new",
    "check",
    "lists",
)

for _command in COMMANDS:
    import_module(f"flowbench.cli.{_command}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and exit with its status: 0, 1 (a cell failed), 2 (usage), 130 (interrupted)."""
    sys.exit(_status(arguments))


def _status(arguments: list[str] | None) -> int:
    if message := hidden():
        print(f"flowbench: {message}", file=sys.stderr)
        return 2
    try:
        return _application()(arguments, standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return _print_error("interrupted", 130)
    except BrokenPipeError:  # `flowbench report | head`
        sys.stderr.close()
        return 0
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich turns a broken pipe into SystemExit
            return 0
        raise
    except _usage_errors() as error:
        return _print_error(str(error), 2)
    except OSError as error:  # a path that cannot be used is a usage error; a full disk without a path is not
        return (
            _print_error(f"{error.filename!r}: {error.strerror}", 2) if error.filename else _print_error(str(error), 1)
        )
    except Exception as error:
        # The usage errors of Typer have no base class common to all its versions, but all have this method.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message() or "choose a command"
        return _print_error(f"{message} (see flowbench --help)", 2)


def _application() -> Callable[..., int | None]:
    """The application; while a shell asks for completions, with the values of options and arguments."""
    if "_FLOWBENCH_COMPLETE" not in os.environ:
        return app
    from flowbench.cli import complete

    found: Callable[..., int | None] = complete.completing(app)
    return found


def _usage_errors() -> tuple[type[ValueError], ...]:
    """The errors that are a mistake of the user. Any other error is a bug and keeps its traceback."""
    from algos import AlgorithmError
    from flowbench.common.errors import UsageError
    from suites import SuiteError

    return UsageError, SuiteError, AlgorithmError


def _print_error(message: str, status: int) -> int:
    from flowbench.common.errors import printable

    print(printable("flowbench: " + " ".join(message.split())), file=sys.stderr)
    return status


def _version(requested: bool) -> None:
    if requested:
        print(f"flowbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
