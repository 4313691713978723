"""Replay: one ring buffer of transitions for each seed, all filled and sampled together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from algos.agent import Batch, Config
from flowbench.common.rng import stream_seed

BLOCK = 64  # batches whose random numbers are drawn at once
SHORT_EPISODE = 100  # steps; initially there is room for the final observations of episodes of this length


class Replay:
    """Transitions of S seeds in tensors [S, row, ...]. A full buffer overwrites the oldest.

    Transitions are numbered from 0. Number t is stored in row `t % (capacity + 1)`. Each observation is stored once:
    the next observation of t is the observation of t + 1, in the following row. Where an episode ended, the following
    row belongs to the next episode. Such a transition has a "final" instead, in another tensor that grows when it is
    full: the last observation of the episode and the discount.

    A transition takes 4 (obs_dim + act_dim + 2) bytes and each episode 4 (obs_dim + 1) more. Storing both observations
    would take 4 (2 obs_dim + act_dim + 2), nearly twice as much where observations are large.
    """

    def __init__(
        self, seeds: Sequence[int], obs_dim: int, act_dim: int, config: Config, steps: int, device: torch.device
    ) -> None:
        """Room on `device` for `config.replay_size` transitions of each seed, or for `steps` if the run is shorter."""
        self.capacity = min(config.replay_size, steps)
        self.size = 0  # transitions held, the same for every seed
        self.added = 0  # transitions added in total
        self._config = config
        self.device = device
        # One more row than transitions: the next observation of the newest one has no transition of its own yet.
        count, rows = len(seeds), self.capacity + 1
        self._obs = torch.empty(count, rows, obs_dim, device=device)
        # The rest of a transition is stored together and read at once: action, reward, number of its final.
        self._rest = torch.empty(count, rows, act_dim + 2, device=device)
        self._final = self._rest[..., -1].view(torch.int32)  # [S, row], 0 where no episode ended
        # Observation and discount. All transitions within an episode share final 0: discount 1, observation unused.
        self._finals = torch.zeros(count, 1 + math.ceil(self.capacity / SHORT_EPISODE), obs_dim + 1, device=device)
        self._finals[:, 0, -1].fill_(1.0)
        free = range(1, self._finals.shape[1]) if device.type != "meta" else ()  # `bytes_needed` uses none
        self._free = [list(free) for _ in seeds]
        self._ends: list[deque[tuple[int, int]]] = [deque() for _ in seeds]  # (transition, its final), oldest first
        # On the CPU, so that a seed draws the same numbers for every device.
        self._generators = [torch.Generator().manual_seed(stream_seed(seed, "replay")) for seed in seeds]
        self._uniforms = torch.empty(count, BLOCK, config.batch_size, dtype=torch.float64)
        self._used = BLOCK  # rows of the block that have been used
        self._first_rows = torch.arange(count)[:, None] * rows  # of each seed, counted over all seeds
        self._first_finals = self._first_of_each(self._finals)

    @staticmethod
    def bytes_needed(seeds: Sequence[int], obs_dim: int, act_dim: int, config: Config, steps: int) -> int:
        """The `nbytes` of a new replay, without allocating it. Many episodes under SHORT_EPISODE steps need more."""
        return Replay(seeds, obs_dim, act_dim, config, steps, torch.device("meta")).nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that hold transitions."""
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
        """Store one transition for each seed: obs and next_obs [S, obs_dim], action [S, act_dim], the rest [S].

        Within an episode, `obs` must be the `next_obs` of the previous transition.
        """
        # One copy to the device. The last column is the final, an integer; 0 has the same bits as a float.
        parts = (obs, next_obs, action, reward[:, None], np.zeros((len(obs), 1)))
        packed = self._upload(torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32)))
        obs_dim, rows = obs.shape[1], self.capacity + 1
        i = self.added % rows
        following = packed[:, obs_dim : 2 * obs_dim]
        self._obs[:, i] = packed[:, :obs_dim]  # already there, except where an episode begins
        self._obs[:, (i + 1) % rows] = following
        self._rest[:, i] = packed[:, 2 * obs_dim :]
        for seed in np.flatnonzero(terminated | truncated).tolist():
            final = self._take_final(seed, self.added)
            self._final[seed, i].fill_(final)
            self._finals[seed, final, :-1] = following[seed]
            self._finals[seed, final, -1].fill_(0.0 if terminated[seed] else 1.0)
        self.added += 1
        self.size = min(self.added, self.capacity)

    def sample(self, progress: float) -> Batch:
        """One batch for every seed: tensors [S, B, ...], and `progress` [S].

        Transitions are drawn with replacement, a share of them from the most recent ones, the rest from all.
        """
        if not self.size:
            raise ValueError("cannot sample from a replay that holds no transition yet")
        return self._read(self._draw(), progress)

    def chunk(self, index: int, start: int) -> dict[str, Tensor]:
        """A seed's transitions from number `start` on, on the CPU, for `refill`. The replay must still hold them."""
        rows = self.capacity + 1
        i = torch.arange(start, self.added, device=self.device) % rows
        rest = self._rest[index, i].cpu()
        final = rest[:, -1].view(torch.int32).long()
        (ends,) = final.nonzero(as_tuple=True)
        return {
            "numbers": torch.tensor([start, self.added]),
            "obs": self._obs[index, i].cpu(),
            "next": self._obs[index, self.added % rows].cpu(),  # of the newest transition, unless its episode ended
            "rest": rest[:, :-1].contiguous(),
            "ends": ends,
            "finals": self._finals[index].cpu()[final[ends]],
        }

    def refill(self, chunks: Sequence[Sequence[Mapping[str, Tensor]]]) -> None:
        """Fill an empty replay with the chunks of every seed, in their order."""
        self.added = max(int(chunk["numbers"][1]) for chunk in chunks[0])
        self.size = min(self.added, self.capacity)
        rows = self.capacity + 1
        for seed, of_seed in enumerate(chunks):
            for chunk in of_seed:
                start, stop = chunk["numbers"].tolist()
                held = slice(max(0, self.added - self.capacity - start), None)
                i = torch.arange(start, stop)[held] % rows
                self._obs[seed, i] = chunk["obs"][held].to(self.device)
                self._obs[seed, stop % rows] = chunk["next"].to(self.device)
                self._rest[seed, i, :-1] = chunk["rest"][held].to(self.device)
                self._final[seed, i] = 0
                for end, final in zip(chunk["ends"].tolist(), chunk["finals"], strict=True):
                    if start + end >= self.added - self.capacity:
                        number = self._take_final(seed, start + end)
                        self._final[seed, (start + end) % rows].fill_(number)
                        self._finals[seed, number] = final.to(self.device)

    def draws(self, index: int) -> dict[str, Tensor]:
        """The state of a seed's random draws."""
        generator, block = self._generators[index].get_state(), self._uniforms[index].clone()
        return {"generator": generator, "block": block, "used": torch.tensor(self._used)}

    def restore_draws(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Continue from the `draws` of every seed."""
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state["generator"])
        self._uniforms = torch.stack([state["block"] for state in states])
        self._used = int(states[0]["used"])

    def _read(self, number: Tensor, progress: float) -> Batch:
        """The transitions with these numbers [S, B]. The replay must hold them."""
        rows = self.capacity + 1
        # Computed on the CPU, because on a GPU each of these small operations would start a kernel.
        at = self._upload(self._first_rows + torch.stack([number % rows, (number + 1) % rows]))
        (obs, following), rest = _pick(self._obs, at), _pick(self._rest, at[0])
        final = rest[..., -1].view(torch.int32)
        ending = _pick(self._finals, self._first_finals + final)
        # Both are read for every transition. Reading only what is needed would make the CPU wait for the device.
        next_obs = torch.where((final > 0)[..., None], ending[..., :-1], following)
        share = torch.full((len(number),), progress, dtype=torch.float32, device=self.device)
        return Batch(obs, rest[..., :-2], rest[..., -2], next_obs, ending[..., -1], share)

    def _draw(self) -> Tensor:
        """The numbers [S, B] of the transitions of one batch, on the CPU."""
        c = self._config
        if self._used == BLOCK:
            shape = (BLOCK, c.batch_size)
            blocks = [torch.rand(shape, generator=g, dtype=torch.float64) for g in self._generators]
            self._uniforms = torch.stack(blocks)
            self._used = 0
        uniform = self._uniforms[:, self._used]
        self._used += 1
        # The uniform share is rounded down. Without the small constant, 0.1 x 100 would become 9.
        anywhere = int(c.batch_size * (1.0 - c.recent_share) + 1e-9)
        age = uniform * self.size
        if anywhere < c.batch_size:
            age[:, anywhere:] = uniform[:, anywhere:] * min(c.recent_window, self.size)
        return self.added - 1 - age.long().clamp_(max=self.size - 1)

    def _take_final(self, seed: int, number: int) -> int:
        """A free final for this transition, the newest so far. Finals of overwritten transitions become free."""
        free, ends = self._free[seed], self._ends[seed]
        while ends and ends[0][0] <= number - self.capacity:
            free.append(ends.popleft()[1])
        if not free:
            self._grow_finals()
        ends.append((number, free.pop()))
        return ends[-1][1]

    def _grow_finals(self) -> None:
        """Double the finals of every seed, up to the number of transitions. Existing finals keep their numbers."""
        count, have, width = self._finals.shape
        more = min(2 * have, self.capacity + 1) - have
        self._finals = torch.cat([self._finals, self._finals.new_zeros(count, more, width)], dim=1)
        self._first_finals = self._first_of_each(self._finals)
        for free in self._free:
            free.extend(range(have, have + more))

    def _first_of_each(self, stored: Tensor) -> Tensor:
        """The position [S, 1] of each seed's first row in `stored` [S, n, d], counted over all seeds."""
        return torch.arange(len(stored), device=self.device)[:, None] * stored.shape[1]

    def _upload(self, tensor: Tensor) -> Tensor:
        """`tensor` on the device, without waiting for the copy."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        # Torch reuses pinned memory only after the copy from it is done, so no reference must be kept here.
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _pick(stored: Tensor, at: Tensor) -> Tensor:
    """The rows of `stored` [S, n, d] at positions `at` [..., S, B], counted over all seeds: [..., S, B, d]."""
    # On a CPU three times as fast as `stored[seed, row]`, and it copies only the result.
    return stored.flatten(0, 1).index_select(0, at.flatten()).view(*at.shape, stored.shape[2])
