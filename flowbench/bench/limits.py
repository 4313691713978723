"""What the machine can do at best, measured in the same rounds: matrix products of given sizes, bytes copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbench.bench.setting import Setting
from flowbench.bench.timing import Timed
from flowbench.bench.work import Product, Work
from flowbench.train.kernels import ONEDNN, onednn_product

SQUARE = {"cpu": 1024, "cuda": 8192}  # sides of a product that fills the device
LARGE = {"cpu": 2**27, "cuda": 2**32}  # bytes, beyond what caches hold
IN_A_GRAPH = 16  # calls a CUDA graph repeats, without which small products on a GPU would time their launches


class Rate:
    """The best of several ways to do the same: its amount (operations or bytes) a second."""

    def __init__(self, amount: float, ways: list[Callable[[], object]], setting: Setting, seconds: float) -> None:
        cuda = setting.device.type == "cuda"
        units = IN_A_GRAPH if cuda else 1
        calls = [_graph(way) for way in ways] if cuda else ways
        self.amount = amount
        self.timed = [Timed(call, setting.device, units, seconds / len(calls)) for call in calls]

    @property
    def per_second(self) -> float:
        return self.amount / min(timed.seconds for timed in self.timed)


def product_rate(product: Product, seeds: int, setting: Setting, seconds: float) -> Rate:
    """Floating-point operations a second of `seeds` products of these sizes, in the precision of the setting."""
    dtype = torch.bfloat16 if setting.precision == "bfloat16" else torch.float32

    def made(*shape: int) -> Tensor:
        return torch.randn(seeds, *shape, device=setting.device).to(dtype)

    a, b, transposed = made(product.m, product.k), made(product.k, product.n), made(product.n, product.k)
    pairs = list(zip(a, b, strict=True))
    layers = list(zip(a, transposed, strict=True))
    ways: list[Callable[[], object]] = [
        lambda: [torch.mm(x, y) for x, y in pairs],
        lambda: [F.linear(x, weight) for x, weight in layers],
    ]
    if seeds > 1:
        ways.append(lambda: torch.bmm(a, b))
    if setting.device.type == "cpu" and ONEDNN:  # torch asks MKL by default, and oneDNN may be faster
        ways.append(lambda: [onednn_product(x, weight) for x, weight in layers])
    return Rate(seeds * product.flop, ways, setting, seconds)


def copy_rate(size: int, setting: Setting, seconds: float) -> Rate:
    """Bytes a second, read and written, while `size` bytes of memory are gone through again and again."""
    whole = torch.randn(2 * max(1, size // 8), device=setting.device)
    first, second = whole.chunk(2)
    ways: list[Callable[[], object]] = [
        lambda: whole.mul_(1.0),
        lambda: (first.copy_(second), second.copy_(first)),
    ]
    return Rate(8.0 * len(whole), ways, setting, seconds)


class Limits:
    """The rates a report needs, each measured once for all algorithms that need it."""

    def __init__(self, setting: Setting, seconds: float) -> None:
        self._setting, self._seconds = setting, seconds
        side, kind = SQUARE[setting.device.type], setting.device.type
        self._square = Product(side, side, side)
        self._large = LARGE[kind]
        self._products: dict[tuple[Product, int], Rate] = {}
        self._copies: dict[int, Rate] = {}
        self._of_product(self._square, 1)
        self._of_copy(self._large)

    @property
    def timed(self) -> list[Timed]:
        """All there is to time."""
        return [timed for rate in (*self._products.values(), *self._copies.values()) for timed in rate.timed]

    def need(self, work: Work, seeds: int) -> None:
        """Have the rates measured that `floor` will ask for."""
        self._of_product(work.product, seeds)
        self._of_copy(seeds * work.resident)

    def floor(self, work: Work, seeds: int) -> Floor:
        """The least time an update of so many seeds can take."""
        flops = self._of_product(work.product, seeds).per_second
        bandwidth = self._of_copy(seeds * work.resident).per_second
        return Floor(seeds * work.flop, seeds * work.bytes, flops, bandwidth)

    def header(self) -> dict[str, object]:
        """The rates at sizes that fill the machine."""
        return {
            "square": str(self._square),
            "square_gflops": self._of_product(self._square, 1).per_second / 1e9,
            "copied_mb": self._large / 1e6,
            "bandwidth_gbs": self._of_copy(self._large).per_second / 1e9,
        }

    def _of_product(self, product: Product, seeds: int) -> Rate:
        if (product, seeds) not in self._products:
            self._products[product, seeds] = product_rate(product, seeds, self._setting, self._seconds)
        return self._products[product, seeds]

    def _of_copy(self, size: int) -> Rate:
        if size not in self._copies:
            self._copies[size] = copy_rate(size, self._setting, self._seconds)
        return self._copies[size]


@dataclass(frozen=True)
class Floor:
    """The time below which an update cannot go: all of its operations or all of its bytes, whichever takes longer."""

    flop: float
    bytes: float
    flops: float  # operations a second, at the sizes of most of them
    bandwidth: float  # bytes a second, in as much memory as is gone through

    @property
    def seconds(self) -> float:
        return max(self.flop / self.flops, self.bytes / self.bandwidth)

    @property
    def bound(self) -> str:
        """What sets it: "compute" or "memory"."""
        return "compute" if self.flop / self.flops >= self.bytes / self.bandwidth else "memory"


def _graph(way: Callable[[], object]) -> Callable[[], object]:
    """`IN_A_GRAPH` calls of `way` as one launch on the GPU."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        way()  # libraries set up what they need, which cannot be recorded
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(IN_A_GRAPH):
            way()
    return graph.replay
