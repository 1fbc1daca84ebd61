"""Names of version 0.1.0, whose ``crossstage.zoo`` was the house of models and weights.

Sources that ``crossstage convert`` wrote then begin with ``from crossstage.zoo import resolve``. The other names are
those of their new homes.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossstage.weights.ref import NETWORKS, parse
from crossstage.weights.resolving import Resolved
from crossstage.weights.resolving import resolve as _resolve

_HOMES = {
    "crossstage": ("create_detector", "create_model", "list_models", "load", "model_info", "profile"),
    "crossstage.darknet.detector": ("DarknetDetector", "load_darknet_detector"),
    "crossstage.models.registry": ("backbone_config",),
    "crossstage.models.spec": ("ModelSpec", "Provenance"),
    "crossstage.weights.cards": ("ModelCard",),
    "crossstage.weights.from_darknet": ("convert_darknet", "load_darknet"),
    "crossstage.weights.from_peer": ("from_peer",),
    "crossstage.weights.loading": ("load_detector", "load_on"),
    "crossstage.weights.peers": ("peers",),
    "crossstage.weights.peers.from_detectron2": ("from_detectron2",),
    "crossstage.weights.published": ("PRETRAINED",),
    "crossstage.weights.starting": ("Started", "start_model"),
    "crossstage.weights.transfer": ("Transfer",),
}


def resolve(name: str | Path, device: str = "meta") -> Resolved:
    """Build a network as version 0.1.0 did, for which ``timm:<name>`` was timm's own network.

    Args:
        name: See :func:`crossstage.weights.resolving.resolve`; ``timm:`` and ``torchvision:`` mean what
            ``timm-network:`` and ``torchvision-network:`` mean there.
        device: Where the tensors are.

    Raises:
        ConfigError: The name is unknown, a file or function is not there, or a user's file fails.
        WeightsError: A model file is damaged.
    """
    ref = parse(name, NETWORKS)
    return _resolve(replace(ref, kind="peer-network") if ref.kind == "peer" else ref, device)


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
