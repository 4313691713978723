"""Replay: ring buffers of transitions, one a seed, filled and sampled together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from algos.agent import Batch, Config
from flowbench.train.rng import stream_seed

BLOCK = 64  # samples whose random numbers are drawn at once
SHORT_EPISODE = 100  # steps; there is room at first for the final observations of episodes of this length


class Replay:
    """Transitions of S seeds in tensors [S, slot, ...]; a full buffer forgets its oldest.

    Transitions are numbered from 0 as they come, and number t lies in slot `t % (capacity + 1)`. An observation is
    stored once: the next observation of t is the observation of t + 1, in the slot after. Only where an episode ended
    is that slot the first of the next episode, and the transition has a final instead: the observation it ended with
    and the discount, in a tensor of their own that grows when it is full.

    A transition takes 4 (obs_dim + act_dim + 2) bytes and an episode 4 (obs_dim + 1) more; to keep both observations
    takes 4 (2 obs_dim + act_dim + 2). With obs_dim 223 and act_dim 38 these are 1052 + 896 an episode, and 1944. The
    share is near a half for many observations, 0.6 with obs_dim 17 and act_dim 6, and two thirds with 3 and 1.
    """

    def __init__(
        self, seeds: Sequence[int], obs_dim: int, act_dim: int, config: Config, steps: int, device: torch.device
    ) -> None:
        """Room on `device` for `config.replay_size` transitions a seed, or for `steps` when the run is shorter."""
        self.capacity = min(config.replay_size, steps)
        self.size = 0  # transitions held, the same for every seed
        self.added = 0  # transitions ever added
        self._config = config
        self._device = device
        # One slot more than transitions: the newest one's next observation is nobody's observation yet.
        count, slots = len(seeds), self.capacity + 1
        self._obs = torch.empty(count, slots, obs_dim, device=device)
        # What else there is of a transition lies together, to be fetched at once: action, reward, number of its final.
        self._rest = torch.empty(count, slots, act_dim + 2, device=device)
        self._final = self._rest[..., -1].view(torch.int32)  # [S, slot], 0 where no episode ended
        # Observation and discount. Final 0 is shared by all within an episode: discount 1, its observation is not used.
        self._finals = torch.zeros(count, 1 + math.ceil(self.capacity / SHORT_EPISODE), obs_dim + 1, device=device)
        self._finals[:, 0, -1].fill_(1.0)
        free = range(1, self._finals.shape[1]) if device.type != "meta" else ()  # there none is ever taken
        self._free = [list(free) for _ in seeds]
        self._ends: list[deque[tuple[int, int]]] = [deque() for _ in seeds]  # (transition, its final), oldest first
        # Drawn on the CPU, so that a seed draws the same on every device.
        self._generators = [torch.Generator().manual_seed(stream_seed(seed, "replay")) for seed in seeds]
        self._uniforms = torch.empty(count, BLOCK, config.batch_size, dtype=torch.float64, device=device)
        self._used = BLOCK  # of the block of uniforms
        self._rows = torch.arange(count, device=device)[:, None]

    @staticmethod
    def bytes_needed(seeds: Sequence[int], obs_dim: int, act_dim: int, config: Config, steps: int) -> int:
        """The `nbytes` of a new replay, without allocating it; many episodes under SHORT_EPISODE steps take more."""
        return Replay(seeds, obs_dim, act_dim, config, steps, torch.device("meta")).nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of everything that holds transitions, of all seeds."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self._obs, self._rest, self._finals))

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_obs: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Store one transition a seed: obs and next_obs [S, obs_dim], action [S, act_dim], the rest [S].

        Where the last transition of a seed did not end its episode, `obs` is that transition's `next_obs`.
        """
        # One copy to the device; the last column is the final, whose 0 has the same bits as an integer.
        parts = (obs, next_obs, action, reward[:, None], np.zeros((len(obs), 1)))
        packed = self._upload(torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32)))
        obs_dim, slots = obs.shape[1], self.capacity + 1
        i = self.added % slots
        following = packed[:, obs_dim : 2 * obs_dim]
        self._obs[:, i] = packed[:, :obs_dim]  # new only where an episode begins
        self._obs[:, (i + 1) % slots] = following
        self._rest[:, i] = packed[:, 2 * obs_dim :]
        for seed in np.flatnonzero(terminated | truncated).tolist():
            final = self._take_final(seed, self.added)
            self._final[seed, i].fill_(final)
            self._finals[seed, final, :-1] = following[seed]
            self._finals[seed, final, -1].fill_(0.0 if terminated[seed] else 1.0)
        self.added += 1
        self.size = min(self.added, self.capacity)

    def sample(self, progress: float) -> Batch:
        """One batch of every seed, its tensors [S, B, ...], and `progress` [S].

        Drawn with replacement: a share from the most recent transitions, the rest from all.
        """
        if not self.size:
            raise ValueError("cannot sample from a replay that holds no transition yet")
        return self._read(self._draw(), progress)

    def chunk(self, slot: int, start: int) -> dict[str, Tensor]:
        """A seed's transitions from number `start` on, which must be held, on the CPU; `refill` puts them back."""
        slots = self.capacity + 1
        i = torch.arange(start, self.added, device=self._device) % slots
        rest = self._rest[slot, i].cpu()
        final = rest[:, -1].view(torch.int32).long()
        (ends,) = final.nonzero(as_tuple=True)
        return {
            "numbers": torch.tensor([start, self.added]),
            "obs": self._obs[slot, i].cpu(),
            "next": self._obs[slot, self.added % slots].cpu(),  # the newest transition's, unless it ended its episode
            "rest": rest[:, :-1].contiguous(),
            "ends": ends,
            "finals": self._finals[slot].cpu()[final[ends]],
        }

    def refill(self, chunks: Sequence[Sequence[Mapping[str, Tensor]]]) -> None:
        """Fill an empty replay again, from every seed's chunks, one after the other."""
        self.added = max(int(chunk["numbers"][1]) for chunk in chunks[0])
        self.size = min(self.added, self.capacity)
        slots = self.capacity + 1
        for seed, of_seed in enumerate(chunks):
            for chunk in of_seed:
                start, stop = chunk["numbers"].tolist()
                held = slice(max(0, self.added - self.capacity - start), None)
                i = torch.arange(start, stop)[held] % slots
                self._obs[seed, i] = chunk["obs"][held].to(self._device)
                self._obs[seed, stop % slots] = chunk["next"].to(self._device)
                self._rest[seed, i, :-1] = chunk["rest"][held].to(self._device)
                self._final[seed, i] = 0
                for end, final in zip(chunk["ends"].tolist(), chunk["finals"], strict=True):
                    if start + end >= self.added - self.capacity:
                        place = self._take_final(seed, start + end)
                        self._final[seed, (start + end) % slots].fill_(place)
                        self._finals[seed, place] = final.to(self._device)

    def draws(self, slot: int) -> dict[str, Tensor]:
        """Where a seed's random draws are."""
        generator, block = self._generators[slot].get_state(), self._uniforms[slot].cpu()
        return {"generator": generator, "block": block, "used": torch.tensor(self._used)}

    def restore_draws(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Go on drawing from where `draws` was, of every seed."""
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state["generator"])
        self._uniforms = torch.stack([state["block"] for state in states]).to(self._device)
        self._used = int(states[0]["used"])

    def _read(self, number: Tensor, progress: float) -> Batch:
        """The transitions of these numbers [S, B], which must be held."""
        slots, finals = self.capacity + 1, self._finals.shape[1]
        i = number % slots
        here, after = self._rows * slots + i, self._rows * slots + (i + 1) % slots
        rest = _pick(self._rest, here)
        final = rest[..., -1].view(torch.int32).long()
        ending = _pick(self._finals, self._rows * finals + final)
        # Both are fetched for every transition: to fetch only what is needed, the device would have to tell how many.
        next_obs = torch.where((final > 0)[..., None], ending[..., :-1], _pick(self._obs, after))
        share = torch.full((len(number),), progress, dtype=torch.float32, device=self._device)
        return Batch(_pick(self._obs, here), rest[..., :-2], rest[..., -2], next_obs, ending[..., -1], share)

    def _draw(self) -> Tensor:
        """Numbers [S, B] of the transitions of one batch."""
        c = self._config
        if self._used == BLOCK:
            shape = (BLOCK, c.batch_size)
            blocks = [torch.rand(shape, generator=g, dtype=torch.float64) for g in self._generators]
            self._uniforms = self._upload(torch.stack(blocks))
            self._used = 0
        uniform = self._uniforms[:, self._used]
        self._used += 1
        # The uniform share is rounded down; the small term keeps 0.1 x 100 from becoming 9.
        anywhere = int(c.batch_size * (1.0 - c.recent_share) + 1e-9)
        age = uniform * self.size
        if anywhere < c.batch_size:
            age[:, anywhere:] = uniform[:, anywhere:] * min(c.recent_window, self.size)
        return self.added - 1 - age.long().clamp_(max=self.size - 1)

    def _take_final(self, seed: int, number: int) -> int:
        """A final for this transition, the newest so far; those of transitions no longer held are free again."""
        free, ends = self._free[seed], self._ends[seed]
        while ends and ends[0][0] <= number - self.capacity:
            free.append(ends.popleft()[1])
        if not free:
            self._grow_finals()
        ends.append((number, free.pop()))
        return ends[-1][1]

    def _grow_finals(self) -> None:
        """Twice the finals for every seed, but no more than could ever be held. A final keeps its place."""
        count, have, width = self._finals.shape
        more = min(2 * have, self.capacity + 1) - have
        self._finals = torch.cat([self._finals, self._finals.new_zeros(count, more, width)], dim=1)
        for free in self._free:
            free.extend(range(have, have + more))

    def _upload(self, tensor: Tensor) -> Tensor:
        """`tensor` on the device, without waiting for it."""
        if self._device.type != "cuda":
            return tensor.to(self._device)
        # Torch hands pinned memory out again only after the copy from it is done, so the block may be dropped here.
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _pick(stored: Tensor, at: Tensor) -> Tensor:
    """What `stored` [S, n, d] has at places `at` [S, B], counted through all seeds: [S, B, d]."""
    # Three times as fast on a CPU as `stored[seed, slot]`, and nothing but the result is copied.
    return stored.flatten(0, 1).index_select(0, at.flatten()).view(*at.shape, stored.shape[2])
