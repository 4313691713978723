"""Compares the time of an update with the least time that the hardware allows (a roofline model).

    python benchmarks/roofline.py --stack 1 --peers --set sac.hidden=512 --set td3.hidden=512

Prints the table of `flowbench bench` as Markdown with three more columns. benchmarks/README.md explains them.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import algos
from algos.agent import Agent, Diagnostics, Loss
from flowbench.bench import peers, run, show, updates
from flowbench.bench.setting import Setting
from flowbench.bench.timing import Timed, in_rounds
from flowbench.learners.kernels import ONEDNN, onednn_product
from flowbench.learners.learner import invented_batch

VALUE = 4  # bytes of a float32: parameters are stored in it, whatever the products are computed in
# Values moved for a trained parameter: the parameter, its gradient and Adam's two averages, each read and written.
MINIMISED = 8
TRACKED = 3  # values moved for a parameter of a moving average: it is read and written, the online one is read
SQUARE = {"cpu": 1024, "cuda": 8192}  # sides of a matrix product that uses the whole device
LARGE = {"cpu": 2**27, "cuda": 2**32}  # bytes, more than the caches hold
IN_A_GRAPH = 16  # calls in one CUDA graph; without it, small products on a GPU would only time their launches
RATE_SHARE = 0.25  # a rate is measured for this share of the seconds of an update


# The work of an update


class Product(NamedTuple):
    """The sizes of a matrix product [m, k] x [k, n]."""

    m: int
    k: int
    n: int

    @property
    def flop(self) -> int:
        """Floating-point operations: a multiplication and an addition each."""
        return 2 * self.m * self.k * self.n

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"


class Work(NamedTuple):
    """The work of one seed's update, averaged over the phases of the agent."""

    flop: float  # of matrix products; other operations are not counted
    bytes: float  # parameters, gradients, the optimiser's averages and the batch, each read and written once
    product: Product  # the sizes that most of `flop` is spent on
    resident: int  # bytes of memory that all of these occupy


def count(agent: Agent[Any], batch_size: int) -> Work:
    """Count the work of one update, on torch's meta device, which computes nothing."""
    agent = copy.deepcopy(agent).to("meta")
    batch = invented_batch(agent, torch.device("meta"), batch_size)
    learner = CountingLearner(agent)
    products: Counter[Product] = Counter()
    with FlopCounterMode(display=False, custom_mapping=recording(products)) as counter:
        for phase in range(agent.period):
            agent.update(batch, learner, phase)
    of_batch = VALUE * sum(part.numel() for part in batch)
    trained = sum(p.numel() for p in agent.parameters() if p.requires_grad)
    held = sum(p.numel() for p in agent.parameters())
    return Work(
        flop=counter.get_total_flops() / agent.period,
        bytes=VALUE * learner.values / agent.period + 2 * of_batch,  # written by the replay buffer, then read
        product=max(products, key=lambda product: products[product]),
        resident=VALUE * (held + 3 * trained) + of_batch,
    )


class CountingLearner:
    """Computes losses and gradients but changes no parameter. Implements `algos.agent.Learner`."""

    def __init__(self, agent: Agent[Any]) -> None:
        self._agent = agent
        self.values = 0  # float32 values moved by optimisers and averages

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        parameters = [p for p in self._agent.get_submodule(part).parameters() if p.requires_grad]
        value, diagnostics = loss(*args)
        torch.autograd.grad(value, parameters)
        self.values += MINIMISED * sum(p.numel() for p in parameters)
        return {name: tensor.detach() for name, tensor in diagnostics.items()}

    def track(self, target: str, online: str, tau: float) -> None:
        self.values += TRACKED * sum(p.numel() for p in self._agent.get_submodule(target).parameters())


def recording(products: Counter[Product]) -> dict[Any, Callable[..., int]]:
    """Functions for torch's counter that count matrix products and also record their sizes."""

    def record(a: Tensor, b: Tensor) -> int:
        product = Product(a.shape[-2], a.shape[-1], b.shape[-1])
        flop = (a.shape[0] if a.dim() == 3 else 1) * product.flop
        products[product] += flop
        return flop

    def product(a: Tensor, b: Tensor, *rest: Any, **more: Any) -> int:
        return record(a, b)

    def sum_and_product(start: Tensor, a: Tensor, b: Tensor, *rest: Any, **more: Any) -> int:
        return record(a, b)

    for function in (product, sum_and_product):
        function._get_raw = True  # type: ignore[attr-defined]  # torch then passes tensors instead of their shapes
    aten = torch.ops.aten
    return {aten.mm: product, aten.bmm: product, aten.addmm: sum_and_product, aten.baddbmm: sum_and_product}


# The rates of the machine


class Rate:
    """An amount (operations or bytes) per second, by the fastest of several ways to do the same."""

    def __init__(self, amount: float, ways: list[Callable[[], object]], setting: Setting, seconds: float) -> None:
        cuda = setting.device.type == "cuda"
        calls = [capture(way) for way in ways] if cuda else ways
        self.amount = amount
        units = IN_A_GRAPH if cuda else 1
        self.timed = [Timed(call, setting.device, units, seconds / len(calls)) for call in calls]

    @property
    def per_second(self) -> float:
        return self.amount / min(timed.seconds for timed in self.timed)


def capture(way: Callable[[], object]) -> Callable[[], object]:
    """`IN_A_GRAPH` calls of `way` as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        way()  # libraries set up what they need, which cannot be captured
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(IN_A_GRAPH):
            way()
    return graph.replay


def product_rate(product: Product, seeds: int, setting: Setting, seconds: float) -> Rate:
    """Operations per second of `seeds` products of these sizes, in the precision of the setting."""
    dtype = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32

    def random(*shape: int) -> Tensor:
        return torch.randn(seeds, *shape, device=setting.device).to(dtype)

    a, b, transposed = random(product.m, product.k), random(product.k, product.n), random(product.n, product.k)
    pairs = list(zip(a, b, strict=True))
    layers = list(zip(a, transposed, strict=True))
    ways: list[Callable[[], object]] = [
        lambda: [torch.mm(x, y) for x, y in pairs],
        lambda: [F.linear(x, weight) for x, weight in layers],
    ]
    if seeds > 1:
        ways.append(lambda: torch.bmm(a, b))
    if setting.device.type == "cpu" and ONEDNN:  # torch uses MKL by default, and oneDNN may be faster
        ways.append(lambda: [onednn_product(x, weight) for x, weight in layers])
    return Rate(seeds * product.flop, ways, setting, seconds)


def copy_rate(size: int, setting: Setting, seconds: float) -> Rate:
    """Bytes per second, read and written, in `size` bytes of memory."""
    whole = torch.randn(2 * max(1, size // 8), device=setting.device)
    first, second = whole.chunk(2)
    ways: list[Callable[[], object]] = [lambda: whole.mul_(1.0), lambda: (first.copy_(second), second.copy_(first))]
    return Rate(8.0 * len(whole), ways, setting, seconds)


class Floor(NamedTuple):
    """The least time of an update: all its operations or all its bytes, whichever takes longer."""

    flop: float
    bytes: float
    flops: float  # operations per second, at the sizes of most of them
    bandwidth: float  # bytes per second, in memory of the same size

    @property
    def seconds(self) -> float:
        return max(self.flop / self.flops, self.bytes / self.bandwidth)

    @property
    def bound(self) -> str:
        return "compute" if self.flop / self.flops >= self.bytes / self.bandwidth else "memory"


class Limits:
    """The machine's rates; a rate that several algorithms need is measured once."""

    def __init__(self, setting: Setting, seconds: float) -> None:
        self._setting, self._seconds = setting, seconds
        side = SQUARE[setting.device.type]
        self._square, self._large = Product(side, side, side), LARGE[setting.device.type]
        self._rates: dict[object, Rate] = {}
        self._product(self._square, 1)
        self._copy(self._large)

    @property
    def timed(self) -> list[Timed]:
        return [timed for rate in self._rates.values() for timed in rate.timed]

    def need(self, work: Work, seeds: int) -> None:
        """Measure the rates that `floor` will need."""
        self._product(work.product, seeds)
        self._copy(seeds * work.resident)

    def floor(self, work: Work, seeds: int) -> Floor:
        """The least time of an update of so many seeds."""
        flops = self._product(work.product, seeds).per_second
        bandwidth = self._copy(seeds * work.resident).per_second
        return Floor(seeds * work.flop, seeds * work.bytes, flops, bandwidth)

    def __str__(self) -> str:
        gflops = self._product(self._square, 1).per_second / 1e9
        bandwidth = self._copy(self._large).per_second / 1e9
        return (
            f"limits: {show.number(gflops)} GFLOP/s in products {self._square}, "
            f"{show.number(bandwidth)} GB/s in {show.number(self._large / 1e6)} MB"
        )

    def _product(self, product: Product, seeds: int) -> Rate:
        if (product, seeds) not in self._rates:
            self._rates[product, seeds] = product_rate(product, seeds, self._setting, self._seconds)
        return self._rates[product, seeds]

    def _copy(self, size: int) -> Rate:
        if size not in self._rates:
            self._rates[size] = copy_rate(size, self._setting, self._seconds)
        return self._rates[size]


FLOOR: show.Columns = {
    "floor ms": lambda row: show.number(1e3 * row["floor"].seconds),
    "bound": lambda row: row["floor"].bound,
    "of floor": lambda row: show.percent(1e3 * row["floor"].seconds / row["update_ms"]),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default=",".join(algos.names()))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--stack", type=int, nargs="+", default=[1])
    parser.add_argument("--obs", type=int, default=run.OBS)
    parser.add_argument("--act", type=int, default=run.ACT)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peers", action="store_true")
    given = parser.parse_args(arguments)
    setting, sizes = Setting.choose(given.device, given.precision, given.threads), updates.Sizes(given.obs, given.act)
    variants = run.variants(run.NO_SUITE, [given.algo], given.set, {})
    header = setting.header()
    others = peers.installed(variants) if given.peers else []
    header["versions"] |= peers.versions(others)
    with setting.applied():
        subjects = updates.prepare(variants, given.stack, setting, sizes, given.seconds, others)
        limits = Limits(setting, RATE_SHARE * given.seconds)
        work = []
        for subject in subjects:
            variant = subject.variant
            work.append(count(variant.entry.load()(*sizes, variant.config), variant.config.batch_size))
            limits.need(work[-1], subject.seeds)
        in_rounds([*updates.timers(subjects), *limits.timed])
    rows = [
        {**updates.row(subject, setting, sizes), "floor": limits.floor(each, subject.seeds)}
        for subject, each in zip(subjects, work, strict=True)
    ]
    columns = {**show.UPDATES, **FLOOR, **show.peer_columns(rows)}
    print(show.text([show.about(header), str(limits)], rows, columns, "markdown"))


if __name__ == "__main__":
    main()
