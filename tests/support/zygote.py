"""Command lines and their workers as forks of one process that has imported everything: a start costs milliseconds.

`python zygote.py` reads a request a line. For {"arguments": [...], ...} it writes the process id of the fork that runs
`flowbench` with these arguments, for {"wait": PID} that one's exit status. What is not real about such a grid is how
its processes begin; how they run, are asked to stop, hold locks and are killed is.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

# What a worker imports, before anything is forked. No gradient is computed here: torch's threads would not survive it.
import gymnasium  # noqa: F401
import torch

from algos import flowrl, sac, td3  # noqa: F401
from flowbench import cli
from flowbench.common import system
from flowbench.grid import run  # noqa: F401
from flowbench.schedule.executors import local
from flowbench.store import checkpoint, loggers, records  # noqa: F401
from flowbench.train import trainer  # noqa: F401
from flowbench.worker import __main__ as worker_main


class Fork:
    """A worker forked off, in the place of subprocess.Popen."""

    def __init__(self, command, *, stderr, env, pass_fds, **options):
        reader, writer = os.pipe()
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(writer, 1)
            os.dup2(stderr.fileno(), 2)
            keep(pass_fds)
            os.environ.update(env)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            code = 1
            try:
                code = worker_main.main(command[command.index("flowbench.worker") + 1 :])
            except SystemExit as ended:
                code = ended.code
            finally:
                os._exit(code)
        os.close(writer)
        self.stdout = os.fdopen(reader, encoding="utf-8")

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self):
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def terminate(self):
        self._send(signal.SIGTERM)

    def kill(self):
        self._send(signal.SIGKILL)

    def _send(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def keep(descriptors):
    """Close every file but these and the standard ones, as a program that is started afresh would."""
    for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"):
        if int(name) > 2 and int(name) not in descriptors:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listed them


def jump():
    """A wall clock that is put back and forth by days, as often as it is looked at."""
    days, told = random.Random(0), datetime.datetime

    class Jumping(told):
        @classmethod
        def now(cls, tz=None):
            return told.now(tz) + datetime.timedelta(days=days.uniform(-30, 30))

    records.datetime = Jumping
    real = time.time
    time.time = lambda: real() + 86_400 * days.uniform(-30, 30)


def written_elsewhere(log):
    """A descriptor whose output a process of its own writes to the log: no limit of this one cuts it short."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        with open(log, "ab", buffering=0) as file:
            while block := os.read(reader, 65536):
                file.write(block)
        os._exit(0)
    os.close(reader)
    return writer


def command(arguments, log, largest_file, jumping_clock):
    """Runs `flowbench` to its end, in this process."""
    os.setsid()
    out = written_elsewhere(log) if largest_file else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if jumping_clock:
        jump()
    os.dup2(out, 1)
    os.dup2(out, 2)
    keep(())
    real = subprocess.Popen
    local.subprocess.Popen = lambda command, **options: (
        Fork(command, **options) if "flowbench.worker" in command else real(command, **options)
    )
    system.cores = lambda: 1
    code = 1
    try:
        code = cli._status(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main():
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            command(**request)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
