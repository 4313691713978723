"""CUDA graphs: an update, or a choice of actions, is replayed with one launch instead of hundreds."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from algos.agent import Batch, Memory, Transition
from flowbench.learners.learner import EagerLearner
from flowbench.learners.stacked import StackedLearner

WARM_UP = 3  # runs before a capture, which create library workspaces, optimiser state and logged sums


class Graphed:
    """A learner with one graph for each phase of its updates and one for each shape of observations.

    A graph repeats exactly the recorded launches, so a decision that an algorithm makes in Python is made only once.
    The rules for algorithm files (docs/adding-an-algorithm.md) keep that harmless. What cannot be recorded runs
    operation by operation, and a line on standard error names the place.
    """

    def __init__(self, learner: EagerLearner | StackedLearner) -> None:
        self.learner = learner
        self._pool = torch.cuda.graph_pool_handle()
        # For warm-up and capture. cuBLAS keeps a workspace for each stream. Like this the warm-up allocates it, outside
        # the memory of a graph, which is freed with the graph.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._batch: Batch | None = None
        self._updates: dict[int, _Recording] = {}
        self._observed: tuple[Transition, _Recording] | None = None
        self._acts: dict[tuple[Any, ...], tuple[list[Tensor], _Recording]] = {}

    def update(self, batch: Batch) -> None:
        """One update, the same as the learner's."""
        learner = self.learner
        if self._batch is None:
            self._batch = Batch(*(part.clone() for part in batch))
        static = self._batch
        torch._foreach_copy_(list(static), list(batch))
        phase = learner.updates % learner.agent.period
        if phase not in self._updates:
            self._updates[phase] = self._recording(lambda: learner.take_steps(static, phase))
        self._updates[phase].run()
        learner.updates += 1

    def act_with_memory(self, obs: Tensor, explore: bool, memory: Memory | None) -> tuple[Tensor, Memory | None]:
        """Actions for obs and the next memory, the same as the learner's."""
        learner = self.learner  # the function must not refer to `self`: the cycle would keep dead graphs in memory
        given = [obs, *(memory or {}).values()]
        key = (explore, *(each.shape for each in given))
        if key not in self._acts:
            inputs = [each.clone() for each in given]
            own = None if memory is None else dict(zip(memory, inputs[1:], strict=True))
            self._acts[key] = inputs, self._recording(lambda: learner.act_with_memory(inputs[0], explore, own))
        static, recording = self._acts[key]
        torch._foreach_copy_(static, given)
        action, after = recording.run()
        # The graphs share their memory: the next replay of any of them may overwrite their results.
        return action.clone(), None if after is None else {name: each.clone() for name, each in after.items()}

    def observe(self, transition: Transition) -> None:
        """The `observe` of the learner, with a transition."""
        learner = self.learner
        if self._observed is None:
            inputs = Transition(*(part.clone() for part in transition))
            self._observed = inputs, self._recording(lambda: learner.observe(inputs))
        static, recording = self._observed
        torch._foreach_copy_(list(static), list(transition))
        recording.run()

    def _recording(self, function: Callable[[], Any]) -> _Recording:
        return _Recording(function, self._pool, self._stream, self.learner.logged.counts, self.learner.agent)


class _Recording:
    """A function on fixed tensors that is run a few times, then recorded, then replayed."""

    def __init__(
        self, function: Callable[[], Any], pool: Any, stream: torch.cuda.Stream, counts: Counter[str], agent: Any
    ) -> None:
        self._function = function
        self._pool = pool
        self._stream = stream
        self._counts = counts
        self._agent = agent
        self._warm_up = WARM_UP
        self._refused = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._counted: Counter[str] = Counter()
        self._result: Any = None

    def run(self) -> Any:
        """The function's result. In a replayed graph the next run overwrites it."""
        if self._refused:
            return self._function()
        if self._graph is None and not self._warm_up:
            self._record()
        if self._graph is None:
            self._warm_up = max(0, self._warm_up - 1)
            return self._run_on_side_stream()
        self._graph.replay()
        self._counts.update(self._counted)
        return self._result

    def _run_on_side_stream(self) -> Any:
        """Run on another stream, which CUDA requires before a capture."""
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            result = self._function()
        main.wait_stream(self._stream)
        return result

    def _record(self) -> None:
        before = self._counts.copy()
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer context restores the current stream also if ending the capture fails. Torch's own does not.
            with torch.cuda.stream(self._stream), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._result = self._function()
        except Exception as error:
            self._refused = True
            print(f"not captured as a CUDA graph, {source_line(error, self._agent)}: {_line(error)}", file=sys.stderr)
        else:
            self._graph = graph
        finally:
            self._counted = self._counts - before
            self._counts.clear()  # nothing is computed during recording, so nothing was logged
            self._counts.update(before)


def source_line(error: BaseException, agent: Any) -> str:
    """The last line of the algorithm's file in the traceback, or the line that raised the error."""
    frames = traceback.extract_tb((error.__context__ or error).__traceback__)
    own = sys.modules[type(agent).__module__].__file__
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    return f"{frame.filename}:{frame.lineno} ({frame.line})"


def _line(error: BaseException) -> str:
    return " ".join(str(error.__context__ or error).split())
