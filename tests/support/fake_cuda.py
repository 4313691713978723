"""A CUDA device that is pretended on the CPU, with streams, memory pools and graphs that can be captured and replayed.

The device: tensors made with `device="cuda"` are CPU tensors whose storages are remembered. They report the device
"cuda", and so does everything computed from them. To combine them with tensors of the host is an error, as on a GPU.

Graphs: a captured graph computes nothing; it keeps the operations. A replay runs them on the same storages. Before
each replay the memory of its pool is overwritten where torch's allocator could have used it for something else. Tensors
from outside the graph must still be there, at the same address. An operation that makes the host wait for the device is
an error while a graph is captured.

What it cannot show: kernels that differ from those of a CPU, errors of the driver, and races between streams.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda")
# The results of these have a size that depends on values, or are values on the host.
SYNCHRONISING = {
    "_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
    "bincount", "repeat_interleave", "item", "is_nonzero",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
COPYING = {"copy_", "_foreach_copy_", "copy"}
MASKS = (torch.bool, torch.uint8)
UNINITIALISED = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
OF_DEVICE, IS_CUDA = Tensor.device.__get__, Tensor.is_cuda.__get__
MOVING = {Tensor.to, Tensor.cpu, Tensor.cuda}
READING = {Tensor.numpy, Tensor.tolist, Tensor.__array__}  # the values, but through no operation


def tensors_in(*trees: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dictionaries, in order."""
    found: list[Tensor] = []
    _add_tensors(trees, found)
    return found


def _add_tensors(tree: Any, found: list[Tensor]) -> None:
    for x in tree:
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, dict):
            _add_tensors(x.values(), found)
        elif isinstance(x, (list, tuple)):
            _add_tensors(x, found)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nested lists, tuples and dictionaries with the function's results."""
    if isinstance(tree, dict):
        return {key: mapped(function, each) for key, each in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [mapped(function, each) for each in tree]
    return function(tree)


SPECIAL = {OF_DEVICE, IS_CUDA, Tensor.is_pinned, Tensor.pin_memory, *MOVING, *READING}


class Misuse(AssertionError):
    """A graph that would read or write memory which is no longer its own."""


class Storages:
    """A set of storages, each as long as it lives."""

    def __init__(self) -> None:
        self._kept: dict[int, StorageWeakRef] = {}

    def add(self, tensor: Tensor) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        self._kept[reference.cdata] = reference
        if len(self._kept) % 4096 == 0:
            self._kept = {key: each for key, each in self._kept.items() if not each.expired()}

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._kept


class Stream:
    """A stream. All streams compute in the order in which the host gives them work."""

    device = DEVICE

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass


class On:
    """Stands in for `torch.cuda.stream`."""

    def __init__(self, cuda: FakeCuda, stream: Stream) -> None:
        self._cuda, self._stream = cuda, stream

    def __enter__(self) -> None:
        self._before, self._cuda.stream = self._cuda.stream, self._stream

    def __exit__(self, *error: Any) -> None:
        self._cuda.stream = self._before


@dataclass
class Pool:
    """The memory that several graphs share."""

    graphs: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in memory. Graphs keep their own memory alive, and no other."""

    storage: torch.UntypedStorage | StorageWeakRef
    address: int
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def tensor(self, reader: str) -> Tensor:
        storage: Any = self.storage
        if isinstance(storage, StorageWeakRef):
            storage = torch.UntypedStorage._new_with_weak_ptr(storage.cdata)
            if storage is None:
                raise Misuse(f"{reader} uses a tensor {tuple(self.size)} from outside the graph that is gone")
            if storage.data_ptr() != self.address:
                raise Misuse(f"{reader} uses a tensor {tuple(self.size)} from outside the graph that has moved")
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


@dataclass(frozen=True)
class Operation:
    """An operation that was captured, and which of its results it writes into new memory."""

    function: Any
    arguments: Any
    results: list[Place | None]

    @torch.no_grad()
    def run(self) -> None:
        name = self.function.name()
        arguments, keywords = mapped(lambda x: x.tensor(name) if isinstance(x, Place) else x, self.arguments)
        results = tensors_in(self.function(*arguments, **keywords))
        for place, result in zip(self.results, results, strict=True):
            if place:
                place.tensor(name).copy_(result)


class Graph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    numbers = itertools.count()

    def __init__(self, cuda: FakeCuda) -> None:
        self.operations: list[Operation] = []
        self.invalid = False
        self._cuda = cuda
        self._memory: dict[int, tuple[torch.UntypedStorage, torch.dtype]] = {}

    def capture_begin(self, pool: Pool | None = None, capture_error_mode: str = "global") -> None:
        assert self._cuda.capturing is None, "one capture at a time"
        assert self._cuda.stream is not self._cuda.main, "a capture needs a stream of its own"
        self._cuda.captured_on.append(self._cuda.stream)
        self._pool = pool or Pool()
        self._number = next(self.numbers)
        self._cuda.capturing = self

    def capture_end(self) -> None:
        self._cuda.capturing = None
        if self.invalid or self._cuda.fails_to_end:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self._pool.graphs.add(self)
        self._cuda.captured.append(weakref.ref(self))

    def record(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], tensors: list[Tensor]) -> Any:
        """Compute the operation, so that there are results with their sizes, and undo what it wrote."""
        outside = [t for t in written(function, arguments, keywords) if not self._owns(t)]
        before = [t.clone() for t in outside]
        noise = torch.get_rng_state() if torch.Tag.nondeterministic_seeded in function.tags else None
        result = function(*arguments, **keywords)
        for tensor, values in zip(outside, before, strict=True):
            tensor.copy_(values)
        if noise is not None:
            torch.set_rng_state(noise)
        given = {t.untyped_storage()._cdata for t in tensors}
        results = tensors_in(result)
        new = [x.untyped_storage()._cdata not in given for x in results]
        for tensor in itertools.compress(results, new):
            self._memory[tensor.untyped_storage()._cdata] = (tensor.untyped_storage(), tensor.dtype)
        if function._schema.name.removeprefix("aten::") not in UNINITIALISED and (
            any(new) or function._schema.is_mutable
        ):
            places = [self._place(x) if fresh else None for x, fresh in zip(results, new, strict=True)]
            self.operations.append(Operation(function, mapped(self._kept, (arguments, keywords)), places))
        return result

    def replay(self) -> None:
        with self._cuda.plainly():
            for graph in list(self._pool.graphs):
                graph.overwrite(all_of_it=graph._number > self._number)
            for operation in self.operations:
                if operation.function not in self._cuda.left_out:
                    operation.run()
        self._cuda.counts["replays"] += 1

    def overwrite(self, all_of_it: bool) -> None:
        """Fill memory that nobody else uses. A graph captured before this one may use any memory of this one."""
        for storage, dtype in self._memory.values():
            if all_of_it or torch._C._storage_Use_Count(storage._cdata) == 1:
                value = math.nan if dtype.is_floating_point else True if dtype == torch.bool else torch.iinfo(dtype).max
                torch.empty(0, dtype=dtype).set_(storage).fill_(value)

    def _owns(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._memory

    def _kept(self, x: Any) -> Any:
        """What a graph keeps of an argument: tensors by their place, and numbers on the host by their value."""
        if not isinstance(x, Tensor):
            return x
        return self._place(x) if self._cuda.holds(x) else x.clone()

    def _place(self, x: Tensor) -> Place:
        storage = x.untyped_storage()
        kept = storage if self._owns(x) else StorageWeakRef(storage)
        return Place(kept, storage.data_ptr(), x.dtype, x.size(), x.stride(), x.storage_offset())


def written(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments that an operation writes to."""
    found = []
    for k, argument in enumerate(function._schema.arguments):
        if argument.alias_info and argument.alias_info.is_write:
            given = arguments[k] if k < len(arguments) else keywords.get(argument.name)
            found += tensors_in(given)
    if function._schema.name == "aten::native_batch_norm":  # the schema does not say that it updates the statistics
        found += tensors_in(arguments[3:5])
    return found


class Capture:
    """Stands in for `torch.cuda.graph`, which does not restore the stream either if ending the capture fails."""

    def __init__(self, cuda: FakeCuda, graph: Graph, pool: Pool | None = None, stream: Stream | None = None) -> None:
        self._cuda, self._graph, self._pool = cuda, graph, pool
        self._stream = On(cuda, stream or cuda.capture_stream)

    def __enter__(self) -> None:
        self._stream.__enter__()
        self._graph.capture_begin(self._pool)

    def __exit__(self, *error: Any) -> None:
        self._graph.capture_end()
        self._stream.__exit__(*error)


class FakeCuda:
    """The device. Its fields are for tests to look at, and to make it fail."""

    def __init__(self) -> None:
        self.main = self.stream = Stream()
        self.capture_stream = Stream()
        self.streams: list[Stream] = []  # those made by the code under test
        self.capturing: Graph | None = None
        self.captured: list[weakref.ref[Graph]] = []
        self.captured_on: list[Stream] = []
        self.counts: Counter[str] = Counter()
        self.fails_to_end = False  # whether ending a capture raises an error
        self.left_out: set[Any] = set()  # operations that replays leave out
        self.sync_is_error = False
        self._device, self._pinned = Storages(), Storages()
        self._target: bool | None = None  # where new tensors belong: to the device, the host, or as their inputs do
        self._called_with: Any = ()
        self._modes = [_Calls(self), _Operations(self)]

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the device."""
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        return tensor in self._device

    def grouped(self, group: Callable[..., Any]) -> Callable[..., Any]:
        """Torch's function that groups tensors by device and type, for tensors that are all on one device."""

        def of(lists: list[list[Tensor]], with_indices: bool = False) -> Any:
            found = group(lists, with_indices)
            return {(self._group_device(lists), dtype): each for (_, dtype), each in found.items()}

        return of

    def _group_device(self, lists: list[list[Tensor]]) -> torch.device:
        return DEVICE if self.holds(lists[0][0]) else torch.device("cpu")

    def new_stream(self) -> Stream:
        self.streams.append(Stream())
        return self.streams[-1]

    @contextlib.contextmanager
    def waiting_is_an_error(self) -> Iterator[None]:
        """Inside, an operation that makes the host wait for the device raises an error."""
        self.sync_is_error = True
        try:
            yield
        finally:
            self.sync_is_error = False

    @contextlib.contextmanager
    def plainly(self) -> Iterator[None]:
        """Inside, tensors are those of the CPU that they are."""
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            yield

    def wait(self, why: str) -> None:
        """The host waits for the device."""
        if self.capturing:
            self.capturing.invalid = True
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({why})")
        if self.sync_is_error:
            raise RuntimeError(f"called a synchronizing CUDA operation ({why})")

    def compute(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """An operation, as torch dispatches it."""
        tensors = [x for x in tensors_in(arguments, keywords) if not x.is_meta]
        held = [x in self._device for x in tensors]
        target = self._target
        if not tensors and target is None:  # new tensors inside a function of torch belong where its arguments do
            target = any(self.holds(x) for x in tensors_in(self._called_with) if not x.is_meta) or None
        if not any(held) and not target:
            return function(*arguments, **keywords)
        name = function._schema.name.removeprefix("aten::")
        if self._target is None:
            self._reject_mixing(name, tensors, held)
        if name in SYNCHRONISING or (name in INDEXING and any(x.dtype in MASKS for x in tensors_in(arguments[1]))):
            self.wait(name)
        if self.capturing:
            result = self.capturing.record(function, arguments, keywords, tensors)
        else:
            result = function(*arguments, **keywords)
        if target is not False:
            given = {x.untyped_storage()._cdata for x in tensors}
            for x in tensors_in(result):
                if not x.is_meta and x.untyped_storage()._cdata not in given:
                    self._device.add(x)
        return result

    def _reject_mixing(self, name: str, tensors: list[Tensor], held: list[bool]) -> None:
        hosts = [x for x, here in zip(tensors, held, strict=True) if not here]
        if hosts and name in COPYING | INDEXING:
            self.wait(f"{name} between host and device")
        elif any(x.ndim for x in hosts):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda and cpu")

    def call(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """A function or method of torch, as it was called in Python."""
        if function in SPECIAL:
            return self._special(function, *arguments, **keywords)
        device = keywords.get("device")
        if device is None or torch.device(device).type == "meta":
            before, self._called_with = self._called_with, (arguments, keywords)
            try:
                return function(*arguments, **keywords)
            finally:
                self._called_with = before
        to_device = torch.device(device).type == "cuda"
        if to_device and function in (torch.tensor, torch.as_tensor):
            self.wait("values from the host")
        with self._towards(to_device):
            return function(*arguments, **{**keywords, "device": "cpu"})

    def _special(self, function: Any, tensor: Tensor, *arguments: Any, **keywords: Any) -> Any:
        if function == OF_DEVICE:
            return DEVICE if self.holds(tensor) else function(tensor)
        if function == IS_CUDA:
            return self.holds(tensor)
        if function is Tensor.is_pinned:
            return tensor in self._pinned
        if function is Tensor.pin_memory:
            assert not self.holds(tensor)
            copy = tensor.clone()
            self._pinned.add(copy)
            return copy
        if function in MOVING:
            return self._move(function, tensor, arguments, keywords)
        if self.holds(tensor):
            if function is not Tensor.tolist:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            self.wait("tolist")
        return function(tensor, *arguments, **keywords)

    def _move(self, function: Any, tensor: Tensor, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        device = {Tensor.cpu: "cpu", Tensor.cuda: "cuda"}.get(function) or keywords.get("device")
        if device is None and arguments and isinstance(arguments[0], (str, torch.device, Tensor)):
            device = arguments[0]
            if isinstance(device, Tensor):
                keywords = {"dtype": device.dtype, **keywords}
                device = "cuda" if self.holds(device) else device.device
            arguments = arguments[1:]
        if device is None or torch.device(device).type == "meta" or tensor.is_meta:
            moved = (device,) if device is not None and "device" not in keywords else ()
            return Tensor.to(tensor, *moved, *arguments, **keywords)
        keywords = {**keywords, "device": "cpu"}
        if len(arguments) > 1:  # as modules call it: dtype, non_blocking
            keywords["non_blocking"] = arguments[1]
        if arguments and arguments[0] is not None:
            keywords["dtype"] = arguments[0]
        here, there = self.holds(tensor), torch.device(device).type == "cuda"
        if here == there:
            return Tensor.to(tensor, **keywords)
        if not (there and keywords.get("non_blocking") and tensor in self._pinned) or self.capturing:
            self.wait("a copy between host and device")
        with self._towards(there):
            return Tensor.to(tensor, **{**keywords, "copy": True})

    @contextlib.contextmanager
    def _towards(self, device: bool) -> Iterator[None]:
        before, self._target = self._target, device
        try:
            yield
        finally:
            self._target = before

    def __enter__(self) -> FakeCuda:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Calls(TorchFunctionMode):
    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        return self._cuda.call(function, arguments, keywords or {})


class _Operations(TorchDispatchMode):
    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        with torch._C.DisableTorchFunction():
            return self._cuda.compute(function, arguments, keywords or {})


def install(patch: pytest.MonkeyPatch) -> FakeCuda:
    """The device in place of torch.cuda's, until the patch is undone. Enter it to use it."""
    cuda = FakeCuda()
    names: dict[str, Any] = {
        "is_available": lambda: True,
        "CUDAGraph": lambda: Graph(cuda),
        "graph": lambda graph, pool=None, stream=None: Capture(cuda, graph, pool, stream),
        "graph_pool_handle": Pool,
        "Stream": cuda.new_stream,
        "stream": lambda stream: On(cuda, stream),
        "current_stream": lambda device=None: cuda.stream,
        "synchronize": lambda device=None: cuda.wait("synchronize"),
        "device": lambda device: contextlib.nullcontext(),
        "manual_seed": torch.default_generator.manual_seed,  # the device and the host share a generator
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "mem_get_info": lambda device=None: (2**30, 2**30),
        "get_device_name": lambda device=None: "a pretended GPU",
    }
    for name, value in names.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(
        torch._C, "_group_tensors_by_device_and_dtype", cuda.grouped(torch._C._group_tensors_by_device_and_dtype)
    )
    autocast = torch.autocast
    patch.setattr(torch, "autocast", lambda device_type, *given: autocast("cpu", *given))
    return cuda
