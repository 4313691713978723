"""Adam on one part of an agent, or of the agents of several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from algos.agent import Adam
from flowbench.common.tensors import State

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimiser:
    """Adam on the parameters of one part, [...] for one seed or [S, ...] for S."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        spec: Adam,
        seeds: int | None = None,
        places: Sequence[tuple[Tensor, int | None]] | None = None,
    ) -> None:
        """`parameters` have their names within the part.

        `places` tells for each parameter of a single agent which of the parameters holds it, and as which twin.
        """
        self._parameters = list(parameters.values())
        self._places = places or [(parameter, None) for parameter in self._parameters]
        self._spec = spec
        self._seeds = seeds
        self._one: Tensor | None = None  # the gradient of the loss with respect to itself
        kind = torch.optim.AdamW if spec.weight_decay else torch.optim.Adam
        first = self._parameters[0]
        self.adam = kind(
            [{"params": each, "lr": spec.lr * rate} for rate, each in _by_rate(parameters, spec.rates).items()],
            betas=spec.betas,
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            fused=True,
            capturable=first.is_cuda,
        )
        self._rates = [group["lr"] for group in self.adam.param_groups]
        if spec.schedule is not None:
            for group in self.adam.param_groups:
                group["lr"] = torch.full((), group["lr"], device=first.device)

    def step(self, loss: Tensor, progress: Tensor) -> None:
        """One step along the gradient of `loss`, [] for one seed or [S] for S. Seeds share no parameter.

        `progress` is that of the batch, [] or [S].
        """
        if self._one is None:
            self._one = torch.ones_like(loss)
        # Only the gradients of this part: the actor's loss gives the critic's weights none.
        found = torch.autograd.grad(loss, self._parameters, self._one)
        # The fused optimiser ignores strides, so a transposed gradient would be applied wrongly.
        gradients = [gradient.contiguous() for gradient in found]
        if self._spec.clip_norm is not None or self._spec.clip_value is not None:
            gradients = _apart(gradients, self._one)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if (limit := self._spec.clip_value) is not None:
            torch._foreach_clamp_min_(gradients, -limit)
            torch._foreach_clamp_max_(gradients, limit)
        if self._spec.clip_norm is not None:
            self._clip(gradients, self._spec.clip_norm)
        if self._spec.schedule is not None:
            factor = self._spec.schedule(progress.reshape(-1)[0])  # all seeds are at the same step
            for group, rate in zip(self.adam.param_groups, self._rates, strict=True):
                group["lr"].copy_(rate * factor)
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


def _apart(gradients: Sequence[Tensor], one: Tensor) -> list[Tensor]:
    """Gradients that can be changed in place: parameters that are added have one tensor together."""
    taken, found = {one.data_ptr()}, []
    for gradient in gradients:
        found.append(gradient.clone() if gradient.data_ptr() in taken else gradient)
        taken.add(found[-1].data_ptr())
    return found


def _by_rate(parameters: Mapping[str, Tensor], rates: Mapping[str, float]) -> dict[float, list[Tensor]]:
    """The parameters by the factor of their learning rate. The innermost sub-module that has one decides."""
    found: dict[float, list[Tensor]] = {}
    for name, parameter in parameters.items():
        own = [prefix for prefix in rates if f"{name}.".startswith(f"{prefix}.")]
        found.setdefault(rates[max(own, key=len)] if own else 1.0, []).append(parameter)
    return found
