"""What every algorithm must do so that its trainings are correct, repeatable and fast: one function for each check."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algos.agent import Agent, Batch, Config, Diagnostics, Loss
from flowbench.common.rng import TorchStream
from flowbench.learners import seed_learners
from flowbench.learners.learner import EagerLearner, invented_batch
from flowbench.learners.placement import Placement
from flowbench.learners.seed_learners import GroupLearner
from flowbench.learners.stacked import StackedLearner

CPU = torch.device("cpu")
SIZES = ((1, 1), (3, 2), (17, 5))  # of observations and actions
OBS_DIM, ACT_DIM = SIZES[1]
TRANSITIONS = 6  # in a batch
EXTREMES = (0.0, 1e3, -1e3, 1e6)  # observations are normal, times one of these
SEEDS = 3  # that are stacked


class Failed(Exception):
    """A check failed. `method` is the one of the algorithm to look at."""

    def __init__(self, reason: str, method: str = "update") -> None:
        super().__init__(reason)
        self.method = method


@dataclass(frozen=True)
class Subject:
    """An algorithm with its hyperparameters."""

    algorithm: type[Agent[Any]]
    config: Config

    def agent(self, obs_dim: int = OBS_DIM, act_dim: int = ACT_DIM, seed: int = 0) -> Agent[Any]:
        """An agent; the seed decides its weights."""
        with TorchStream(seed, CPU):
            return self.algorithm(obs_dim, act_dim, self.config)

    def learner(self, seed: int = 0) -> GroupLearner:
        """An agent that is trained as a run of one seed is."""
        return seed_learners.build(self.algorithm, OBS_DIM, ACT_DIM, self.config, [seed], Placement(CPU))


class Observed(EagerLearner):
    """A learner that notes its calls, and which parameters they change outside the part that they may change."""

    def __init__(self, agent: Agent[Any]) -> None:
        super().__init__(agent, CPU)
        self.calls: list[tuple[Any, ...]] = []
        self.strays: list[str] = []

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        with self._watch("minimise", part):
            return super().minimise(part, loss, *args)

    def track(self, target: str, online: str, tau: float) -> None:
        with self._watch("track", target, online, tau):
            super().track(target, online, tau)

    @property
    def tracked(self) -> set[str]:
        """The parts that are moved averages."""
        return {call[1] for call in self.calls if call[0] == "track"}

    @contextmanager
    def _watch(self, *call: Any) -> Iterator[None]:
        before = _parameters(self.agent)
        yield
        self.calls.append(call)
        strays = [name for name in _changed(before, self.agent) if not name.startswith(f"{call[1]}.")]
        self.strays += [f"{call[0]}({call[1]!r}) changes {name}" for name in strays]


class Unmoved:
    """A learner that computes every loss and takes no step."""

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        """Compute the loss."""
        return {name: tensor.detach() for name, tensor in loss(*args)[1].items()}

    def track(self, target: str, online: str, tau: float) -> None:
        """Do nothing."""


def batches(agent: Agent[Any], count: int, seed: int = 5) -> list[Batch]:
    """Random transitions; the last one of each batch ended its episode."""
    found = []
    with TorchStream(seed, CPU):
        for k in range(count):
            one = invented_batch(agent, CPU, TRANSITIONS)
            discount = torch.ones_like(one.discount)
            discount[..., -1] = 0.0
            reward, next_obs = torch.randn_like(one.reward), torch.randn_like(one.next_obs)
            progress = torch.full_like(one.progress, k / count)
            found.append(one._replace(reward=reward, next_obs=next_obs, discount=discount, progress=progress))
    return found


def actions_fit(subject: Subject) -> None:
    """Actions have the right shape and lie in [-1, 1], for any sizes and number of observations."""
    for sizes in SIZES:
        learner = EagerLearner(subject.agent(*sizes), CPU)
        for n in (1, 7):
            _check_actions(learner, torch.randn(n, sizes[0]), "observations")


def extreme_observations(subject: Subject) -> None:
    """Actions are finite and in bounds whatever is observed."""
    learner = EagerLearner(subject.agent(), CPU)
    for scale in EXTREMES:
        _check_actions(learner, scale * torch.randn(7, OBS_DIM), f"observations around {scale:g}")


def acting_changes_nothing(subject: Subject) -> None:
    """Acting changes no parameter and no buffer."""
    agent = subject.agent()
    before, learner = _weights(agent), EagerLearner(agent, CPU)
    for explore in (True, False):
        learner.act(torch.randn(4, OBS_DIM), explore)
    if changed := _changed(before, agent):
        raise Failed(f"act changes {_listed(changed)}", "act")


def updates_work(subject: Subject) -> None:
    """Updates work at any sizes, compute the loss of every part, and all that is logged is finite."""
    for sizes in SIZES:
        agent = subject.agent(*sizes)
        learner = EagerLearner(agent, CPU)
        for batch in batches(agent, 3 * agent.period):
            learner.update(batch)
        means = learner.pop_means()
        if never := [part for part in agent.optimisers() if f"{part}/loss" not in means]:
            raise Failed(f"optimisers() names {_listed(never)}, but no update minimises a loss for it")
        if wrong := [name for name, value in means.items() if not math.isfinite(value)]:
            raise Failed(f"{_listed(wrong)} is not finite after {3 * agent.period} updates")


def trained_parts_move(subject: Subject) -> None:
    """A period of updates moves every trained and every tracked parameter, and no other parameter."""
    agent = subject.agent()
    before, learner = _parameters(agent), Observed(agent)
    for batch in batches(agent, agent.period):
        learner.update(batch)
    if learner.strays:
        raise Failed(learner.strays[0])
    parts = set(agent.optimisers())
    own = {name: [part for part in parts | learner.tracked if name.startswith(f"{part}.")] for name in before}
    trainable = {name for name, parameter in agent.named_parameters() if parameter.requires_grad}
    if lost := [name for name in trainable if not parts & set(own[name])]:
        raise Failed(f"{_listed(lost)} belongs to no trained part; if it is constant, freeze it", "optimisers")
    moved = set(_changed(before, agent))
    if still := [name for name in own if own[name] and name not in moved]:
        raise Failed(f"{_listed(still)} does not move in a period of {agent.period} updates: its gradient is zero")
    if strays := [name for name in own if not own[name] and name in moved]:
        raise Failed(f"{_listed(strays)} changes, although it is neither trained nor tracked")


def periods_repeat(subject: Subject) -> None:
    """Only the phase decides what an update does, so that a CUDA graph for each phase can be replayed."""
    agent = subject.agent()
    learner = Observed(agent)
    calls = []
    for batch in batches(agent, 3 * agent.period):
        before = len(learner.calls)
        learner.update(batch)
        calls.append(learner.calls[before:])
    for number, made in enumerate(calls):
        if made != calls[number % agent.period]:
            raise Failed(
                f"update {number + 1} makes other calls than update {number % agent.period + 1}, which has the same "
                f"phase: set `period` ({agent.period} now), and decide by `phase` alone"
            )


def same_seed_same_result(subject: Subject) -> None:
    """The same seed gives the same weights, updates and actions, and another seed other weights."""
    one, two, other = subject.learner(), subject.learner(), subject.learner(seed=1)
    if not _differ(one, other):
        raise Failed("two seeds give the same initial weights", "__init__")
    if differ := _differ(one, two):
        raise Failed(f"the same seed gives two initial values of {_listed(differ)}", "__init__")
    for learner in (one, two):
        _train(subject, learner, 2 * one.period)
    if differ := _differ(one, two):
        raise Failed(f"two trainings with one seed differ in {_listed(differ)}: {NOISE}, and keep nothing in the class")


def reads_no_value(subject: Subject) -> None:
    """No value of a tensor is read and no tensor is made on another device, so that CUDA graphs can be captured."""
    agent = subject.agent().to("meta")  # on this device there are no values
    for phase in range(agent.period):
        batch = Batch(*(part.to("meta") for part in batches(agent, 1)[0]))
        agent.update(batch, Unmoved(), phase)
    for explore in (True, False):
        if _act(agent, torch.zeros(4, OBS_DIM, device="meta"), explore).device.type != "meta":
            raise Failed(f"act(obs, explore={explore}) gives a tensor on another device than obs", "act")


def stacked_equals_separate(subject: Subject) -> None:
    """Seeds that are trained as one batched computation learn what each learns alone."""
    StackedLearner([subject.agent(seed=seed) for seed in range(SEEDS)], CPU).rehearse()
    # In double precision: in single, Adam turns a gradient of rounding errors into a whole step.
    agents = [subject.agent(seed=seed).double() for seed in range(SEEDS)]
    try:
        EagerLearner(copy.deepcopy(agents[0]), CPU).update(_double(batches(agents[0], 1)[0]))
    except Exception as error:
        how = "make tensors like the batch, as torch.zeros_like does"
        raise Failed(f"an update in double precision, in which they are compared, fails: {error}; {how}") from error
    with _known_noise() as restart:
        for few_kernels in (False, True):  # as on a CPU, as on a GPU
            separate = [EagerLearner(copy.deepcopy(agent), CPU) for agent in agents]
            stacked = StackedLearner(copy.deepcopy(agents), CPU, few_kernels=few_kernels)
            of_seeds = [batches(agents[0], 2 * agents[0].period, seed) for seed in range(SEEDS)]
            for together in zip(*of_seeds, strict=True):
                each = list(map(_double, together))
                restart()
                stacked.update(Batch(*map(torch.stack, zip(*each, strict=True))))
                for learner, batch in zip(separate, each, strict=True):
                    restart()
                    learner.update(batch)
            for index, learner in enumerate(separate):
                weights = stacked.weights(index)
                differ = [n for n, tensor in _weights(learner.agent).items() if not _close(weights[n], tensor)]
                if differ:
                    raise Failed(f"stacked seeds learn another {_listed(differ)} than each seed alone; {NOISE}")
            obs = torch.randn(SEEDS, 4, OBS_DIM, dtype=torch.float64)
            for explore in (True, False):
                restart()
                found = stacked.act(obs, explore)
                for index, learner in enumerate(separate):
                    restart()
                    if not _close(found[index], learner.act(obs[index], explore)):
                        raise Failed(f"stacked seeds act otherwise than each seed alone; {NOISE}", "act")


def resume_is_exact(subject: Subject) -> None:
    """A training that resumes from a checkpoint computes what one without an interruption does."""
    straight, resumed = subject.learner(), subject.learner()
    first, more = straight.period + 1, 2 * straight.period
    _train(subject, straight, first)
    resumed.restore([{name: tensor.clone() for name, tensor in straight.state(0).items()}])
    actions = []
    for learner in (straight, resumed):
        _train(subject, learner, more, seed=9)
        actions.append(learner.act(torch.ones(1, OBS_DIM)))
    lost = "what an agent keeps must be a parameter or a buffer, and not a Python attribute"
    if differ := _differ(straight, resumed):
        raise Failed(f"after a resume {_listed(differ)} is another: {lost}")
    if not torch.equal(*actions):
        raise Failed(f"after a resume the actions are others: {lost}", "act")


CHECKS: dict[str, Callable[[Subject], None]] = {
    "actions fit at any sizes": actions_fit,
    "actions are finite and in bounds for extreme observations": extreme_observations,
    "acting changes nothing": acting_changes_nothing,
    "updates work and what they log is finite": updates_work,
    "what is trained or tracked moves, and nothing else": trained_parts_move,
    "the phase alone decides what an update does": periods_repeat,
    "the same seed gives the same result": same_seed_same_result,
    "no value is read, for CUDA graphs": reads_no_value,
    "stacked seeds equal separate ones": stacked_equals_separate,
    "resuming is exact": resume_is_exact,
}
NOISE = "draw noise with torch.randn_like, torch.rand_like or algos.networks.noise_like alone"


def place(error: BaseException, algorithm: type[Agent[Any]]) -> str:
    """The file and line to look at: the last line of the algorithm's file in a traceback, or the method of a check."""
    file = str(inspect.getsourcefile(algorithm))
    trace, line = (error.__cause__ or error).__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, Failed) and not line:
        method = getattr(algorithm, error.method)
        file, line = str(inspect.getsourcefile(method)), inspect.getsourcelines(method)[1]
    return f"{file}:{line}" if line else file


def _check_actions(learner: EagerLearner, obs: Tensor, what: str) -> None:
    agent = learner.agent
    for explore in (True, False):
        call = f"act(obs, explore={explore}) for {len(obs)} {what} of size {agent.obs_dim}"
        action = learner.act(obs, explore)
        if action.shape != (len(obs), agent.act_dim):
            raise Failed(f"{call} gives shape {tuple(action.shape)}, not {(len(obs), agent.act_dim)}", "act")
        if not action.isfinite().all():
            raise Failed(f"{call} gives an action that is not finite", "act")
        if not (action.abs() <= 1.0).all():
            raise Failed(f"{call} gives an action outside [-1, 1]: {action.abs().max():.3g}", "act")


def _act(agent: Agent[Any], obs: Tensor, explore: bool) -> Tensor:
    act: Any = agent.act
    memory = agent.memory(obs)
    action: Tensor = act(obs, explore) if memory is None else act(obs, explore, memory)[0]
    return action


def _train(subject: Subject, learner: GroupLearner, updates: int, seed: int = 5) -> None:
    for batch in batches(subject.agent(), updates, seed):
        learner.update(Batch(*(part.unsqueeze(0) for part in batch)))


def _double(batch: Batch) -> Batch:
    return Batch(*(part.double() for part in batch))


def _weights(agent: Agent[Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in agent.state_dict().items()}


def _parameters(agent: Agent[Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in agent.named_parameters()}


def _changed(before: dict[str, Tensor], agent: Agent[Any]) -> list[str]:
    """The tensors that are no longer what they were."""
    now = agent.state_dict()
    return [name for name, tensor in before.items() if not torch.equal(tensor, now[name])]


def _differ(one: GroupLearner, other: GroupLearner) -> list[str]:
    first, second = one.weights(0), other.weights(0)
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def _close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-9, atol=1e-11)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


@contextmanager
def _known_noise() -> Iterator[Callable[[], None]]:
    """Noise that is the same for every seed: the k-th draw depends on k and the shape alone. Gives a restart."""
    drawn = 0
    kept = torch.randn_like, torch.rand_like

    def pattern(like: Tensor, scale: float, shift: float) -> Tensor:
        nonlocal drawn
        drawn += 1
        count = torch.arange(math.prod(like.shape), dtype=torch.float64).reshape(like.shape)
        return (scale * torch.frac(torch.sin(12.9898 * (count + 7 * drawn)) * 43758.5453) + shift).to(like.dtype)

    def restart() -> None:
        nonlocal drawn
        drawn = 0

    torch.randn_like = lambda like, **_: pattern(like, 1.5, 0.1)  # type: ignore[assignment]
    torch.rand_like = lambda like, **_: pattern(like, 0.49, 0.5)  # type: ignore[assignment]
    try:
        yield restart
    finally:
        torch.randn_like, torch.rand_like = kept
