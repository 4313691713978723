"""Adam on one part of an agent, or of the agents of several seeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from algos.agent import Adam
from flowbench.common.tensors import State

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimiser:
    """Adam on the parameters of one part, [...] for one seed or [S, ...] for S."""

    def __init__(
        self,
        parameters: list[Tensor],
        spec: Adam,
        seeds: int | None = None,
        places: Sequence[tuple[Tensor, int | None]] | None = None,
    ) -> None:
        """`places` tells for each parameter of a single agent which of the parameters holds it, and as which twin."""
        self._parameters = parameters
        self._places = places or [(parameter, None) for parameter in parameters]
        self._clip_norm = spec.clip_norm
        self._seeds = seeds
        self._one: Tensor | None = None  # the gradient of the loss with respect to itself
        self.adam = torch.optim.Adam(parameters, lr=spec.lr, eps=spec.eps, fused=True, capturable=parameters[0].is_cuda)

    def step(self, loss: Tensor) -> None:
        """One step along the gradient of `loss`, [] for one seed or [S] for S. Seeds share no parameter."""
        if self._one is None:
            self._one = torch.ones_like(loss)
        # Only the gradients of this part: the actor's loss gives the critic's weights none.
        found = torch.autograd.grad(loss, self._parameters, self._one)
        # The fused optimiser ignores strides, so a transposed gradient would be applied wrongly.
        gradients = [gradient.contiguous() for gradient in found]
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if self._clip_norm is not None:
            self._clip(gradients, self._clip_norm)
        self.adam.step()

    def state(self, index: int | None = None) -> State:
        """Adam's moments and step counts of one seed, by parameter. Empty before the first step."""
        found: State = {}
        for k, (parameter, twin) in enumerate(self._places):
            if kept := self.adam.state[parameter]:
                found[f"{k}.step"] = kept["step"]
                for moment in MOMENTS:
                    of_seeds = kept[moment] if twin is None else kept[moment][:, twin]
                    found[f"{k}.{moment}"] = of_seeds if index is None else of_seeds[index]
        return found

    @torch.no_grad()
    def restore(self, states: Sequence[State]) -> None:
        """Continue from the `state` of each seed. Tensors keep their places, because a captured graph uses them."""
        if not states[0]:  # from before the first step
            for parameter in self._parameters:
                for tensor in self.adam.state[parameter].values():
                    tensor.zero_()
            return
        for k, (parameter, twin) in enumerate(self._places):
            kept = self.adam.state[parameter]
            if not kept:
                kept["step"] = torch.zeros((), device=parameter.device)
                kept.update({moment: torch.zeros_like(parameter) for moment in MOMENTS})
            kept["step"].copy_(states[0][f"{k}.step"])
            for moment in MOMENTS:
                of_seeds = [state[f"{k}.{moment}"] for state in states]
                target = kept[moment] if twin is None else kept[moment][:, twin]
                target.copy_(of_seeds[0] if self._seeds is None else torch.stack(of_seeds))

    def _clip(self, gradients: Sequence[Tensor], norm: float) -> None:
        if self._seeds is None:
            nn.utils.clip_grad_norm_(self._parameters, norm)
            return
        norms = torch.stack([gradient.reshape(self._seeds, -1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        scale = (norm / (norms + 1e-6)).clamp(max=1.0)  # the same small constant as in torch
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
