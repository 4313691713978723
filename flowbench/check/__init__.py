"""`flowbench check`: tests an algorithm as a training uses it, and times its updates and those of other algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flowbench.bench import updates
from flowbench.bench.run import NO_SUITE, variants
from flowbench.bench.setting import Setting
from flowbench.check.contract import CHECKS, CPU, Failed, Subject, place
from flowbench.common.errors import UsageError, describe
from flowbench.common.rng import TorchStream
from flowbench.plan.cells import Variant

SIZES = updates.Sizes(17, 6)  # of cheetah-run
COMPARED = ("flowrl", "sac", "td3")  # QVPO takes seconds
SECONDS = 0.3  # an update is timed for so long


@dataclass(frozen=True)
class Finding:
    """The result of one check: `reason` and `place` say what failed, and where."""

    what: str
    passed: bool
    reason: str = ""
    place: str = ""


def find(algo: str) -> Variant:
    """The algorithm with its hyperparameters, named as in `flowbench run`. Raises UsageError or AlgorithmError."""
    found = variants(NO_SUITE, [algo], [], {})
    if len(found) != 1:
        raise UsageError(f"{algo!r} names {len(found)} algorithms: check one at a time")
    return found[0]


def check(algorithm: type[Any], config: Any) -> Iterator[Finding]:
    """Every check, one after the other."""
    subject = Subject(algorithm, config)
    for what, test in CHECKS.items():
        try:
            with TorchStream(0, CPU):
                test(subject)
        except Failed as error:
            yield Finding(what, False, str(error), place(error, algorithm))
        except (Exception, SystemExit) as error:  # third-party code may raise anything
            yield Finding(what, False, describe(error), place(error, algorithm))
        else:
            yield Finding(what, True)


def speed(variant: Variant) -> str:
    """Milliseconds of an update on one thread of the CPU, and those of other algorithms with their defaults."""
    setting = Setting(CPU, "float32", 1)
    others = [each for each in variants(NO_SUITE, COMPARED, [], {}) if each.label != variant.label]
    with setting.applied():
        rows = updates.measure([variant, *others], [1], setting, SIZES, SECONDS, [])
    own, *rest = (f"{row['algo']} {row['update_ms']:.2f}" for row in rows)
    return f"ms an update, one thread, sizes {SIZES.obs} and {SIZES.act}: {own}; {', '.join(rest)}"
