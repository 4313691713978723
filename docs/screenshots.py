"""Makes the screenshots of the documentation from the runs in results/cpu. It needs Chromium."""

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
RUNS = ["--results", "results/cpu", "--suite", "small"]
COMPARE = ["compare", "flowrl[tau=0.05]", "sac", *RUNS]
REPORT = ["report", "--algo", "flowrl[tau=0.05]", "--algo", "sac", "--algo", "td3", "--algo", "qvpo", *RUNS]


def flowbench(*arguments: str) -> str:
    """What a command prints to a terminal of 90 columns, in colour."""
    terminal = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "90"}
    command = [sys.executable, "-m", "flowbench", *arguments]
    return subprocess.run(command, env=terminal, cwd=DOCS.parent, check=True, capture_output=True, text=True).stdout


def photograph(file: Path, image: str, width: int, height: int) -> None:
    """Write the upper part of a page as docs/<image>."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    target = f"--screenshot={DOCS / image}"
    subprocess.run(["chromium", *options, target, file.as_uri()], check=True, capture_output=True)


with tempfile.TemporaryDirectory() as name:
    page, drawing = Path(name, "report.html"), Path(name, "terminal.svg")
    flowbench(*REPORT, "--html", str(page))
    photograph(page, "report-page.png", 1100, 990)

    shown = Console(record=True, width=90, file=io.StringIO())
    shown.print(Text.from_ansi(flowbench(*COMPARE)))
    shown.save_svg(str(drawing), title=shlex.join(["flowbench", *COMPARE]))
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing.read_text())[0]
    photograph(drawing, "terminal.png", int(float(width)), int(float(height)))
