"""What a training runs on: devices and processes, and a model on them, whole or in shards."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.fsdp import FSDPStrategy
from lightning.fabric.strategies.strategy import Strategy
from torch import nn

from crossstage.errors import ConfigError
from crossstage.machine import cores
from crossstage.models.detector import Detector
from crossstage.training.checkpoint import WholeFiles
from crossstage.training.launch import rank_timeout
from crossstage.training.options import RunOptions, TrainOptions
from crossstage.training.schedule import build_optimizer

MOST_WORKERS = 8
CORES_FOR_A_WORKER = 4  # of a training on the CPU, where the network takes most of the time


def fabric_of(options: TrainOptions) -> Fabric:
    """Return the devices and processes that options name.

    Raises:
        ConfigError: They are not there.
    """
    strategy: str | Strategy = "auto"
    if options.strategy == "fsdp":
        strategy = FSDPStrategy(state_dict_type="full", timeout=rank_timeout())
    elif options.strategy == "ddp" or options.world > 1:
        strategy = DDPStrategy(timeout=rank_timeout())
    precision: Any = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[options.precision]
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it greets each process
    try:
        return Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.nodes,
            strategy=strategy,
            precision=precision,
            plugins=[WholeFiles()],
        )
    except Exception as error:  # Lightning has a dozen kinds of error for a device that is not there
        raise ConfigError(f"{options.devices} x {options.accelerator}, {options.strategy}: {error}") from None


def set_up(fabric: Fabric, model: nn.Module, options: RunOptions) -> tuple[Any, torch.optim.Optimizer]:
    """Model and optimiser on their device; sharded models are wrapped before the optimiser is made."""
    wrapped: Any
    optimizer: Any
    if options.strategy == "fsdp":
        wrapped = fabric.setup_module(model)
        optimizer = fabric.setup_optimizers(build_optimizer(wrapped, options))  # pyright: ignore
    else:
        wrapped, optimizer = fabric.setup(model, build_optimizer(model, options))
    if isinstance(model, Detector):
        wrapped.mark_forward_method("loss")  # it goes through what joins the processes, as forward does
    return wrapped, optimizer


def whole_state(fabric: Fabric, model: nn.Module) -> dict[str, Any]:
    """All tensors of a model, gathered where they are sharded, under the names they have in the model itself."""
    if isinstance(fabric.strategy, FSDPStrategy):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    inner = model.module if hasattr(model, "module") else model
    assert isinstance(inner, nn.Module)
    return inner.state_dict()


def load_whole_state(fabric: Fabric, model: nn.Module, state: dict[str, Any]) -> None:
    """Fill a model, whole or in shards, with what :func:`whole_state` returned."""
    if isinstance(fabric.strategy, FSDPStrategy):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))
        return
    inner = model.module if hasattr(model, "module") else model
    assert isinstance(inner, nn.Module)
    inner.load_state_dict(state)


def workers_of(options: TrainOptions, device: str) -> int:
    """Return the processes that prepare images: beside a GPU all that there are, beside a training on the CPU a few."""
    if options.workers is not None:
        return options.workers
    share = cores() // options.devices
    return min(MOST_WORKERS, max(1, share // CORES_FOR_A_WORKER if device == "cpu" else share))
