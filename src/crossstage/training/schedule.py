"""Learning rates and what they apply to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crossstage.training.options import RunOptions

Tensors = tuple[Tensor, ...] | list[Tensor]
MOST_BURN_IN = 0.1  # of a training


def rate_factor(step: int, total: int, options: RunOptions) -> float:
    """Return the share of the learning rate at a step, counted from 0, of ``total``.

    Depends on the step alone, so that a training can go on anywhere. Sources: Darknet's ``burn_in``, ``steps`` and
    ``poly``; SGDR (arXiv 1608.03983, equation 5) for the cosine; YOLOX for its flat end, RTMDet for its flat beginning.
    """
    rising = burn_in_steps(total, options)
    if step < rising:
        return ((step + 1) / rising) ** options.burn_in_power
    done = min(1.0, step / max(1, total))
    if options.schedule == "poly":
        return (1 - done) ** 4
    if options.schedule == "step":
        return 0.1 ** sum(done >= at for at in options.steps)
    if options.schedule == "constant":
        return 1.0
    start = 0.5 if options.schedule == "flat_cosine" else 0.0
    fallen = min(1.0, max(0.0, done - start) / max(1e-9, 1 - options.flat_end - start))
    left = 1 - fallen if options.schedule == "linear" else (1 + math.cos(math.pi * fallen)) / 2
    return options.final_lr + (1 - options.final_lr) * left


def burn_in_steps(total: int, options: RunOptions) -> int:
    """Return the steps of ``total`` in which the rate rises: what is asked for, at most a tenth of the training."""
    asked = options.burn_in
    if options.burn_in_epochs is not None:
        asked = round(options.burn_in_epochs * total / options.epochs)
    return min(asked, round(total * MOST_BURN_IN))


def build_optimizer(model: nn.Module, options: RunOptions) -> torch.optim.Optimizer:
    """Build an optimiser of all trainable parameters; those of more than one dimension alone decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.peak_lr)
    momentum = options.momentum
    return torch.optim.SGD(groups, lr=options.peak_lr, momentum=momentum, nesterov=options.nesterov and momentum > 0)


def freeze(module: nn.Module) -> None:
    """Keep a module's parameters as they are; :func:`freeze_batch_norm` keeps its statistics, too."""
    module.requires_grad_(False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Put batch norms without trainable parameters in evaluation mode, so that they keep their statistics."""
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in own):
            layer.eval()


def hasten_batch_norm(module: nn.Module, momentum: float) -> None:
    """Let the running statistics of batch norms take at least this share of the newest batch, in (0, 1]."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.momentum is not None:
            layer.momentum = max(layer.momentum, momentum)


class MovingAverage:
    """An exponential moving average of a model's parameters and statistics.

    Early steps count more, so that short trainings forget where they began: after n updates the decay is at most
    ``(1 + n) / (10 + n)``, or with a ramp ``decay * (1 - exp(-n / ramp))`` as in YOLOX.

    Args:
        model: The model to average; the average starts as a copy of it.
        decay: The share of the average that stays at each step, in [0, 1).
        ramp: Steps over which the decay comes in; 0 has the first of these rules.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: float = 0.0) -> None:
        self.decay, self.ramp = decay, ramp
        self.average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
        self.average.requires_grad_(False)
        self.updates = 0
        self.share = 1.0

    @property
    def module(self) -> nn.Module:
        """The averaged model."""
        return self.average.module

    def update(self, model: nn.Module) -> None:
        """Take in the model as it is now."""
        self.updates += 1
        self.share = 1 - self._decay_now()
        self.average.update_parameters(model)

    def _decay_now(self) -> float:
        if self.ramp:
            return self.decay * (1 - math.exp(-self.updates / self.ramp))
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def _blend(self, averaged: Tensors, current: Tensors, _: object) -> None:
        """Blend tensors of one device and type in place."""
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, self.share)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_copy_(averaged, current)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, object]:
        """Return what :meth:`load_state_dict` takes."""
        return {"average": self.average.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state."""
        self.average.load_state_dict(state["average"])
        self.updates = state["updates"]
