"""Learning rates and what they apply to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crossstage.training.options import TrainOptions

Tensors = tuple[Tensor, ...] | list[Tensor]


def rate_factor(step: int, total: int, options: TrainOptions) -> float:
    """Return the share of the learning rate at a step, counted from 0, of ``total``.

    Depends on the step alone, so that a training can go on anywhere. Sources: Darknet's ``burn_in``, ``steps`` and
    ``poly``; SGDR (arXiv 1608.03983, equation 5) for the cosine.
    """
    if step < options.burn_in:
        return ((step + 1) / options.burn_in) ** options.burn_in_power
    done = min(1.0, step / max(1, total))
    if options.schedule == "poly":
        return (1 - done) ** 4
    if options.schedule == "step":
        return 0.1 ** sum(done >= at for at in options.steps)
    if options.schedule == "cosine":
        return options.final_lr + (1 - options.final_lr) * (1 + math.cos(math.pi * done)) / 2
    return 1.0


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Build an optimiser of all trainable parameters; those of more than one dimension alone decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    assert options.lr is not None
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)


def freeze(module: nn.Module) -> None:
    """Keep a module's parameters as they are; :func:`freeze_batch_norm` keeps its statistics, too."""
    module.requires_grad_(False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Put batch norms without trainable parameters in evaluation mode, so that they keep their statistics."""
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in own):
            layer.eval()


class MovingAverage:
    """An exponential moving average of a model's parameters and statistics.

    Early steps count more: the decay is at most ``(1 + n) / (10 + n)`` after n updates, so that short trainings forget
    where they began.

    Args:
        model: The model to average; the average starts as a copy of it.
        decay: The share of the average that stays at each step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
        self.average.requires_grad_(False)
        self.updates = 0

    @property
    def module(self) -> nn.Module:
        """The averaged model."""
        return self.average.module

    def update(self, model: nn.Module) -> None:
        """Take in the model as it is now."""
        self.updates += 1
        self.average.update_parameters(model)

    @torch.no_grad()
    def _blend(self, averaged: Tensors, current: Tensors, _: object) -> None:
        """Blend tensors of one device and type in place."""
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, share)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_copy_(averaged, current)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, object]:
        """Return what :meth:`load_state_dict` takes."""
        return {"average": self.average.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state."""
        self.average.load_state_dict(state["average"])
        self.updates = state["updates"]
