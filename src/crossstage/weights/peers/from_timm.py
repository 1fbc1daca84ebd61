"""timm: its networks, and its weights in ours.

timm's VoVNets with eSE attend in the last module of a stage alone, unlike the authors' own code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError, did_you_mean, not_installed
from crossstage.structures import Preprocessing
from crossstage.weights.peers.base import Library, State, Twin
from crossstage.weights.peers.efficientnet import NAMES, block_rules, body, closing, groups
from crossstage.weights.peers.renaming import DENSENET, DLA, FC, RESNET, Rules, rename, renamed_by

_CSPNET: Rules = (
    (r"stem\.conv(\d+)\.", "backbone.stem.{0:-1}."),
    (r"stages\.(\d+)\.conv_down\.", "backbone.stages.{0}.0."),
    (r"stages\.(\d+)\.conv_exp\.", "backbone.stages.{0}.1.split."),  # both parts: cut in two below
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv(\d+)\.", "backbone.stages.{0}.1.blocks.{1}.body.{2:-1}."),
    (r"stages\.(\d+)\.conv_transition_b\.", "backbone.stages.{0}.1.transition."),
    (r"stages\.(\d+)\.conv_transition\.", "backbone.stages.{0}.1.merge."),
    *FC,
)
_DARKNET: Rules = (
    (r"stem\.conv(\d+)\.", "backbone.stem.{0:-1}."),
    (r"stages\.(\d+)\.conv_down\.", "backbone.stages.{0}.0."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv(\d+)\.", "backbone.stages.{0}.1.{1}.body.{2:-1}."),
    *FC,
)
_VOVNET: Rules = (
    (r"stem\.(\d+)\.conv_dw\.", "backbone.stem.{0}.depthwise."),
    (r"stem\.(\d+)\.conv_pw\.", "backbone.stem.{0}.conv."),
    (r"stem\.(\d+)\.", "backbone.stem.{0}."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_reduction\.", "backbone.stages.{0}.1.{1}.reduce."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_mid\.(\d+)\.conv_dw\.", "backbone.stages.{0}.1.{1}.layers.{2}.depthwise."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_mid\.(\d+)\.conv_pw\.", "backbone.stages.{0}.1.{1}.layers.{2}.conv."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_mid\.(\d+)\.", "backbone.stages.{0}.1.{1}.layers.{2}."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_concat\.", "backbone.stages.{0}.1.{1}.aggregate."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.attn\.", "backbone.stages.{0}.1.{1}.attention."),
    *FC,
)


def _from_cspnet(state: State, source: str) -> dict[str, Tensor]:
    """Rename, and reorder channels: timm reads both parts with one convolution, the carried part first.

    It joins the parts in that order, too; we read them apart, and join the processed part first.
    """
    renamed = rename(state, _CSPNET, source)
    for key in [key for key in renamed if ".split." in key]:
        tensor = renamed.pop(key)
        if tensor.dim() == 0:  # the count of batches
            carried, processed = tensor, tensor.clone()
        else:
            carried, processed = tensor.chunk(2)
        renamed[key.replace(".split.", ".split.carried.")] = carried
        renamed[key.replace(".split.", ".split.processed.")] = processed
    for key in [key for key in renamed if key.endswith(".merge.conv.weight")]:
        renamed[key] = torch.cat(renamed[key].chunk(2, dim=1)[::-1], dim=1)
    return renamed


def _from_dla(state: State, source: str) -> dict[str, Tensor]:
    """Rename; timm's classifier is a 1x1 convolution."""
    renamed = rename(state, DLA, source)
    return {key: tensor.flatten(1) if key == "fc.weight" else tensor for key, tensor in renamed.items()}


def _lite_rules(name: str) -> Rules:
    """Return the rules of an EfficientNet-Lite, whose blocks are numbered in each group."""
    rules: Rules = (
        (r"conv_stem\.", "backbone.stem.conv."),
        (r"bn1\.", "backbone.stem.bn."),
        (r"conv_head\.", f"{closing(name)}conv."),
        (r"bn2\.", f"{closing(name)}bn."),
        *FC,
    )
    expanding = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
    for number, (place, blocks, expands) in enumerate(groups(name)):
        layers = expanding if expands else (("conv_dw", "bn1"), ("conv_pw", "bn2"))
        for block in range(blocks):
            rules += block_rules(rf"blocks\.{number}\.{block}\.", body(place, block), layers)
    return rules


_LAST = {"attend": "last"}
_V, _R, _D = renamed_by(_VOVNET), renamed_by(RESNET), renamed_by(DENSENET)
PEERS: dict[str, Twin] = {
    "timm:cspresnet50": Twin("cspresnet50_timm", _from_cspnet),
    "timm:cspresnet50w": Twin("cspresnet50w", _from_cspnet),
    "timm:cspresnext50": Twin("cspresnext50_timm", _from_cspnet),
    "timm:cspdarknet53": Twin("cspdarknet53_timm", _from_cspnet),
    "timm:dla34": Twin("dla34", _from_dla),
    "timm:darknet53": Twin("darknet53_timm", renamed_by(_DARKNET)),
    "timm:vovnet39a": Twin("vovnet39", _V),
    "timm:vovnet57a": Twin("vovnet57", _V),
    "timm:ese_vovnet19b_slim_dw": Twin("vovnet19_slim_dw_v2", _V, _LAST),
    "timm:ese_vovnet19b_dw": Twin("vovnet19_dw_v2", _V, _LAST),
    "timm:ese_vovnet19b_slim": Twin("vovnet19_slim_v2", _V, _LAST),
    "timm:ese_vovnet39b": Twin("vovnet39_v2", _V, _LAST),
    "timm:ese_vovnet57b": Twin("vovnet57_v2", _V, _LAST),
    "timm:ese_vovnet99b": Twin("vovnet99_v2", _V, _LAST),
    **{f"timm:tf_{name}": Twin(name, renamed_by(_lite_rules(name))) for name in NAMES},
    **{f"timm:densenet{n}": Twin(f"densenet{n}", _D) for n in (121, 161, 169, 201)},
    **{f"timm:resnet{n}": Twin(f"resnet{n}_torchvision", _R) for n in (18, 34, 50, 101, 152)},
    "timm:resnext50_32x4d": Twin("resnext50_torchvision", _R),
    "timm:resnext101_32x8d": Twin("resnext101_32x8d_torchvision", _R),
}


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise not_installed("timm", "timm") from None
    return timm


def _fetch(name: str, tag: str) -> tuple[State, Preprocessing]:
    timm = _timm()
    full = f"{name}.{tag}" if tag else name
    known = timm.list_pretrained(f"{name}.*") if timm.is_model(name) else []
    if not known or (tag and full not in known):
        expected = ", ".join(known) or "none: it has none for this network"
        raise ConfigError(f"timm has no weights {full!r}; expected one of {expected}")
    model = timm.create_model(full, pretrained=True)
    config: dict[str, Any] = vars(model)["pretrained_cfg"]
    return model.state_dict(), _preprocessing(config)


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    """Return how timm prepares images for a network in evaluation."""
    height, width = config["input_size"][1:]
    resample = "cubic" if config["interpolation"] == "bicubic" else None
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Preprocessing((height, width), "crop", mean, std, resample=resample, crop=config["crop_pct"])


def _networks() -> list[str]:
    return _timm().list_models()


def _build(name: str, tag: str) -> tuple[nn.Module, tuple[int, int, int]]:
    del tag  # timm's networks are the same for all of their weights
    timm = _timm()
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models()) or "; timm.list_models() lists them"
        raise ConfigError(f"timm has no network {name!r}{hint}")
    module = timm.create_model(name)
    return module, tuple(module.pretrained_cfg["input_size"])


LIBRARIES = {"timm": Library(_fetch, _build, _networks, "import timm", 'timm.create_model("{name}")')}
