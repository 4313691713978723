"""How long idle OpenMP threads should spin: the time of an update under load and without, in turns.

    python benchmarks/wait_policy.py --busy 1 --spin default 0 1000 10000 --threads 2

GNU OpenMP, which torch's CPU wheels for Linux use, lets a thread without work spin for a while before it sleeps.
GOMP_SPINCOUNT sets how many times; `default` leaves it unset. `--busy` processes compute all the time meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from flowbench.bench import run, updates
from flowbench.bench.setting import Setting
from flowbench.bench.timing import in_rounds

ROUNDS = 100  # of one measurement; each is at least one update, so their mean includes the slow ones


def measure(algo: str, sizes: updates.Sizes, threads: int, seconds: float) -> float:
    """Milliseconds of an update in this process."""
    setting = Setting.choose("cpu", "float32", threads)
    with setting.applied():
        variants = run.variants(run.NO_SUITE, [algo], [], {})
        (subject,) = updates.prepare(variants, [1], setting, sizes, seconds, [])
        in_rounds([subject.update], ROUNDS)
    return 1e3 * statistics.mean(subject.update.rounds)


def in_process(arguments: list[str], spin: str) -> float:
    """`measure` in a new process: OpenMP reads its environment when it is loaded."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    if spin != "default":
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, __file__, "--here", *arguments]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="sac")
    parser.add_argument("--obs", type=int, default=17)
    parser.add_argument("--act", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each value of --spin, in turns")
    parser.add_argument("--busy", type=int, default=1, help="other processes that compute all the time")
    parser.add_argument("--spin", nargs="+", default=["default", "0", "1000", "10000"])
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        print(measure(given.algo, updates.Sizes(given.obs, given.act), given.threads, given.seconds))
        return
    arguments = [f"--{name}={getattr(given, name)}" for name in ("algo", "obs", "act", "threads", "seconds")]
    found: dict[str, list[float]] = {spin: [] for spin in given.spin}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(given.busy)]
    try:
        for _ in range(given.repeats):
            for spin in given.spin:
                found[spin].append(in_process(arguments, spin))
                print(spin, f"{found[spin][-1]:.2f}", file=sys.stderr)
    finally:
        for process in busy:
            process.kill()
    print(f"{given.algo}, {given.threads} threads, {given.busy} busy processes; ms an update: median (least to most)")
    for spin, times in found.items():
        print(f"{spin:>10}: {statistics.median(times):8.2f} ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
