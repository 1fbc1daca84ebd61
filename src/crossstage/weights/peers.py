"""Weights that others trained: torchvision's, timm's, and those of the VoVNet authors' detectron2 code.

Their networks are rows of our tables; only the tensors have other names. A rule is a pattern of their name and ours for
it; in ours, ``{0}`` is the first number of theirs and ``{0:-1}`` that number less one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from crossstage.errors import ConfigError, WeightsError
from crossstage.models.classifier import Classifier
from crossstage.models.registry import REGISTRY, default_spec
from crossstage.models.spec import ModelSpec
from crossstage.structures import Preprocessing

State = Mapping[str, Tensor]
Rules = tuple[tuple[str, str], ...]
Adapter = Callable[[State, str], dict[str, Tensor]]

_FC: Rules = ((r"(?:head\.)?fc\.", "fc."), (r"classifier\.(?:1\.)?", "fc."))
_RESNET: Rules = (
    (r"conv1\.", "backbone.stem.0.conv."),
    (r"bn1\.", "backbone.stem.0.bn."),
    (r"layer(\d+)\.(\d+)\.conv(\d+)\.", "backbone.stages.{0:-1}.{1}.body.{2:-1}.conv."),
    (r"layer(\d+)\.(\d+)\.bn(\d+)\.", "backbone.stages.{0:-1}.{1}.body.{2:-1}.bn."),
    (r"layer(\d+)\.(\d+)\.downsample\.0\.", "backbone.stages.{0:-1}.{1}.shortcut.conv."),
    (r"layer(\d+)\.(\d+)\.downsample\.1\.", "backbone.stages.{0:-1}.{1}.shortcut.bn."),
    *_FC,
)
_DENSENET: Rules = (
    (r"features\.conv0\.", "backbone.stem.0.conv."),
    (r"features\.norm0\.", "backbone.stem.0.bn."),
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.", "backbone.stages.{0:-1}.1.layers.{1:-1}."),
    (r"features\.transition(\d+)\.norm\.", "backbone.stages.{0}.0.0.bn."),
    (r"features\.transition(\d+)\.conv\.", "backbone.stages.{0}.0.0.conv."),
    (r"features\.norm5\.", "backbone.stages.3.2.0."),
    *_FC,
)
_CSPNET: Rules = (
    (r"stem\.conv(\d+)\.", "backbone.stem.{0:-1}."),
    (r"stages\.(\d+)\.conv_down\.", "backbone.stages.{0}.0."),
    (r"stages\.(\d+)\.conv_exp\.", "backbone.stages.{0}.1.split."),  # both parts: cut in two below
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv(\d+)\.", "backbone.stages.{0}.1.blocks.{1}.body.{2:-1}."),
    (r"stages\.(\d+)\.conv_transition_b\.", "backbone.stages.{0}.1.transition."),
    (r"stages\.(\d+)\.conv_transition\.", "backbone.stages.{0}.1.merge."),
    *_FC,
)
_DARKNET: Rules = (
    (r"stem\.conv(\d+)\.", "backbone.stem.{0:-1}."),
    (r"stages\.(\d+)\.conv_down\.", "backbone.stages.{0}.0."),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv(\d+)\.", "backbone.stages.{0}.1.{1}.body.{2:-1}."),
    *_FC,
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
    *_FC,
)
_OSA = r"stage(\d+)\.OSA\d+_(\d+)\."
_DETECTRON2: Rules = (
    (r"stem\.stem_(\d+)/conv\.", "backbone.stem.{0:-1}.conv."),
    (r"stem\.stem_(\d+)/norm\.", "backbone.stem.{0:-1}.bn."),
    (r"stem\.stem_(\d+)/dw_conv3x3\.", "backbone.stem.{0:-1}.depthwise."),
    (r"stem\.stem_(\d+)/pw_conv1x1\.", "backbone.stem.{0:-1}.conv."),
    (r"stem\.stem_(\d+)/pw_norm\.", "backbone.stem.{0:-1}.bn."),
    (_OSA + r"conv_reduction\.\w+/conv\.", "backbone.stages.{0:-2}.1.{1:-1}.reduce.conv."),
    (_OSA + r"conv_reduction\.\w+/norm\.", "backbone.stages.{0:-2}.1.{1:-1}.reduce.bn."),
    (_OSA + r"layers\.(\d+)\.\w+/conv\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.conv."),
    (_OSA + r"layers\.(\d+)\.\w+/norm\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.bn."),
    (_OSA + r"layers\.(\d+)\.\w+/dw_conv3x3\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.depthwise."),
    (_OSA + r"layers\.(\d+)\.\w+/pw_conv1x1\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.conv."),
    (_OSA + r"layers\.(\d+)\.\w+/pw_norm\.", "backbone.stages.{0:-2}.1.{1:-1}.layers.{2}.bn."),
    (_OSA + r"concat\.\w+/conv\.", "backbone.stages.{0:-2}.1.{1:-1}.aggregate.conv."),
    (_OSA + r"concat\.\w+/norm\.", "backbone.stages.{0:-2}.1.{1:-1}.aggregate.bn."),
    (_OSA + r"ese\.", "backbone.stages.{0:-2}.1.{1:-1}.attention."),
)


class _Number(int):
    """A number of a tensor's name; its format specification is added to it."""

    def __format__(self, spec: str) -> str:
        return str(self + int(spec or 0))


def rename(state: State, rules: Rules, source: str) -> dict[str, Tensor]:
    """Give every tensor our name; tensors that a rule lacks are an error.

    Raises:
        WeightsError: A name fits no rule.
    """
    compiled = [(re.compile(pattern), name) for pattern, name in rules]
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        for pattern, name in compiled:
            if match := pattern.match(key):
                renamed[name.format(*map(_Number, match.groups())) + key[match.end() :]] = tensor
                break
        else:
            raise WeightsError(f"{source}: tensor {key!r} has no place in this network")
    return renamed


def _from_cspnet(state: State, source: str) -> dict[str, Tensor]:
    """Timm reads both parts with one convolution, the carried one first, and joins them in that order; we the other."""
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


def _from_mobilenet(state: State, source: str) -> dict[str, Tensor]:
    """Torchvision numbers the blocks from end to end, and their layers: in order, convolutions and norms alternate."""
    rest = {key: tensor for key, tensor in state.items() if not key.startswith("features.")}
    renamed = rename(rest, _FC, source)
    model = _build("mobilenetv2_torchvision", 1, {})
    ours = [
        name for name, module in model.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d))
    ]
    theirs = {key.rpartition(".")[0] for key in state if key.startswith("features.")}
    ordered = sorted(theirs, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    if len(ordered) != len(ours):
        raise WeightsError(f"{source}: {len(ordered)} layers; expected {len(ours)}")
    prefixes = dict(zip(ordered, ours, strict=True))
    for key, tensor in state.items():
        prefix, _, name = key.rpartition(".")
        if prefix in prefixes:
            renamed[f"{prefixes[prefix]}.{name}"] = tensor
    return renamed


def _by(rules: Rules) -> Adapter:
    return lambda state, source: rename(state, rules, source)


_LAST = {"attend": "last"}
_ADAPTERS: dict[str, tuple[str, Mapping[str, Any], Adapter]] = {
    "timm:cspresnet50": ("cspresnet50_timm", {}, _from_cspnet),
    "timm:cspresnet50w": ("cspresnet50w", {}, _from_cspnet),
    "timm:cspresnext50": ("cspresnext50_timm", {}, _from_cspnet),
    "timm:cspdarknet53": ("cspdarknet53_timm", {}, _from_cspnet),
    "timm:darknet53": ("darknet53_timm", {}, _by(_DARKNET)),
    "timm:vovnet39a": ("vovnet39", {}, _by(_VOVNET)),
    "timm:vovnet57a": ("vovnet57", {}, _by(_VOVNET)),
    "timm:ese_vovnet19b_slim_dw": ("vovnet19_slim_dw_v2", _LAST, _by(_VOVNET)),
    "timm:ese_vovnet19b_dw": ("vovnet19_dw_v2", _LAST, _by(_VOVNET)),
    "timm:ese_vovnet19b_slim": ("vovnet19_slim_v2", _LAST, _by(_VOVNET)),
    "timm:ese_vovnet39b": ("vovnet39_v2", _LAST, _by(_VOVNET)),
    "timm:ese_vovnet57b": ("vovnet57_v2", _LAST, _by(_VOVNET)),
    "timm:ese_vovnet99b": ("vovnet99_v2", _LAST, _by(_VOVNET)),
    **{f"{source}:densenet{n}": (f"densenet{n}", {}, _by(_DENSENET)) for source in ("timm", "torchvision")
       for n in (121, 161, 169, 201)},
    **{f"{source}:resnet{n}": (f"resnet{n}_torchvision", {}, _by(_RESNET)) for source in ("timm", "torchvision")
       for n in (18, 34, 50, 101, 152)},
    **{f"{source}:resnext50_32x4d": ("resnext50_torchvision", {}, _by(_RESNET)) for source in ("timm", "torchvision")},
    **{f"{source}:resnext101_32x8d": ("resnext101_32x8d_torchvision", {}, _by(_RESNET))
       for source in ("timm", "torchvision")},
    "torchvision:mobilenet_v2": ("mobilenetv2_torchvision", {}, _from_mobilenet),
}  # fmt: skip


def peers() -> list[str]:
    """The networks of others whose weights load, as ``timm:<name>`` and ``torchvision:<name>``."""
    return sorted(_ADAPTERS)


def twin_of(name: str, library: str) -> str | None:
    """A library's name of one of our networks; None if it has none that is the same.

    Args:
        name: Our name, with or without a tag.
        library: ``"timm"`` or ``"torchvision"``.
    """
    ours = name.partition(".")[0]
    return next(
        (
            peer.partition(":")[2]
            for peer, (twin, _, _) in _ADAPTERS.items()
            if twin == ours and peer.startswith(f"{library}:")
        ),
        None,
    )


def from_peer(
    name: str, state: State, *, num_classes: int | None = None, preprocessing: Preprocessing | None = None
) -> Classifier:
    """Build our network of a peer's name and fill it with the peer's tensors.

    Args:
        name: One of :func:`peers`.
        state: The peer's state dict.
        num_classes: Classes of the state dict; by default read off its linear layer.
        preprocessing: How the peer prepared images.

    Returns:
        The classifier in evaluation mode.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: The tensors are not those of this network.
    """
    ours, settings, adapt = _adapter(name)
    renamed = adapt(state, name)
    if "fc.weight" not in renamed:
        raise WeightsError(f"{name}: no linear layer among the tensors")
    model = _build(ours, num_classes or len(renamed["fc.weight"]), settings)
    model.preprocessing = preprocessing
    _fill(model, renamed, name)
    return model


def peer_spec(name: str, model: Classifier) -> ModelSpec:
    """What rebuilds a peer's network as we have it.

    Args:
        name: As for :func:`load_peer`.
        model: What that returned.

    Raises:
        ConfigError: The name is unknown.
    """
    ours, settings, _ = _adapter(name.partition(".")[0])
    return ModelSpec(ours, model.fc.out_features, (), settings, model.preprocessing)


def _adapter(name: str) -> tuple[str, Mapping[str, Any], Adapter]:
    if name not in _ADAPTERS:
        close = get_close_matches(name, _ADAPTERS, n=3)
        hint = (
            f"did you mean {' or '.join(close)}?" if close else "crossstage.weights.peers.peers() lists those that have"
        )
        raise ConfigError(f"{name!r} has no twin here; {hint}")
    return _ADAPTERS[name]


def from_detectron2(name: str, state: State) -> Classifier:
    """Fill a VoVNetV2 with a checkpoint of its authors' detectron2 code, whose classifier is gone.

    Args:
        name: Our name of the network, such as ``"vovnet39_v2"``: eSE in every module.
        state: The tensors, such as ``torch.load(file, weights_only=True)``; those of the backbone may begin with
            ``backbone.bottom_up.``, others are ignored then. Frozen norms have no count of batches.

    Returns:
        A classifier in evaluation mode whose linear layer is as initialised.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: The tensors are not those of this network.
    """
    prefix = "backbone.bottom_up."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    model = _build(name, 1000, {})
    renamed = rename(state, _DETECTRON2, name)
    _fill(model, renamed, name, spared=("fc.weight", "fc.bias"))
    return model


def _build(name: str, num_classes: int, settings: Mapping[str, Any]) -> Classifier:
    if name not in REGISTRY:
        raise ConfigError(f"model {name!r} is unknown")
    model = REGISTRY[name].build(default_spec(name, num_classes, overrides=settings))
    assert isinstance(model, Classifier)
    return model.eval()


def _fill(model: Classifier, state: State, source: str, spared: Iterable[str] = ()) -> None:
    own = model.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")} | set(spared)
    for key in sorted(own.keys() | state.keys()):
        found = tuple(state[key].shape) if key in state else "missing"
        expected = tuple(own[key].shape) if key in own else "no such tensor"
        if found != expected and not (found == "missing" and key in optional):
            raise WeightsError(f"{source}: {key} is {found}; expected {expected}")
    model.load_state_dict({**own, **state})


def load_peer(name: str) -> Classifier:
    """Fetch a peer's pretrained network and load it into ours.

    Args:
        name: ``"timm:<name>"`` or ``"torchvision:<name>"``, with or without a tag, such as
            ``"timm:cspresnet50.ra_in1k"`` or ``"torchvision:resnet50.IMAGENET1K_V2"``.

    Raises:
        ConfigError: The name or tag is unknown, or timm is not installed.
        WeightsError: The weights cannot be fetched or do not fit.
    """
    library, _, tagged = name.partition(":")
    base, _, tag = tagged.partition(".")
    _adapter(f"{library}:{base}")
    fetch = _fetch_timm if library == "timm" else _fetch_torchvision
    try:
        state, preprocessing = fetch(base, tag)
    except (OSError, RuntimeError) as error:  # no network, no such file, a damaged download
        raise WeightsError(f"{name}: its weights cannot be fetched: {error}") from error
    return from_peer(f"{library}:{base}", state, preprocessing=preprocessing)


def _fetch_timm(base: str, tag: str) -> tuple[State, Preprocessing]:
    try:
        import timm
    except ImportError:
        raise ConfigError("timm is not installed; try: pip install crossstage[timm]") from None
    full = f"{base}.{tag}" if tag else base
    if not timm.is_model(base) or (tag and full not in timm.list_pretrained(f"{base}*")):
        known = ", ".join(timm.list_pretrained(f"{base}.*"))
        raise ConfigError(
            f"timm has no weights {full!r}; expected one of {known or 'none: it has none for this network'}"
        )
    if not tag and not timm.list_pretrained(f"{base}.*"):
        raise ConfigError(f"timm has no weights for {base!r}")
    model = timm.create_model(full, pretrained=True)
    config: dict[str, Any] = vars(model)["pretrained_cfg"]
    height, width = config["input_size"][1:]
    return model.state_dict(), Preprocessing((height, width), "crop", tuple(config["mean"]), tuple(config["std"]))


def _fetch_torchvision(base: str, tag: str) -> tuple[State, Preprocessing]:
    from torchvision import models

    weights = models.get_model_weights(base)
    try:
        chosen = weights[tag] if tag else weights["DEFAULT"]
    except KeyError:
        raise ConfigError(
            f"torchvision has no weights {tag!r} of {base}; expected one of {', '.join(weights.__members__)}"
        ) from None
    transforms = chosen.transforms()
    side = transforms.crop_size[0]
    return chosen.get_state_dict(progress=True, check_hash=True), Preprocessing(
        (side, side), "crop", tuple(transforms.mean), tuple(transforms.std)
    )
