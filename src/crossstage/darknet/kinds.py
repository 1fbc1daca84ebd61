"""How each kind of Darknet section becomes a planned layer: its options, its shape, its cost (``KINDS``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

from torch import nn

from crossstage.darknet import layers, operations
from crossstage.darknet.activations import NAMES, darknet_activation
from crossstage.darknet.cfg import Section, shorten
from crossstage.darknet.heads import OUTPUT_KINDS
from crossstage.darknet.plan import MAX_ELEMENTS, FeatureShape, PlannedLayer, Scope
from crossstage.nn import BN_EPS, Maxout


def _activation(scope: Scope, default: str) -> Callable[[], nn.Module]:
    name = scope.section.text("activation", default)
    if name not in NAMES:
        raise scope.section.error(f"activation={shorten(name)}; expected one of {', '.join(NAMES)}", "activation")
    return partial(darknet_activation, name)


def _strides(scope: Scope) -> tuple[int, int]:
    """Return the vertical and horizontal step; ``stride_x`` and ``stride_y`` below 1 mean ``stride``."""
    stride = scope.section.integer("stride", 1)
    x, y = (scope.section.integer(key, -1) for key in ("stride_x", "stride_y"))
    steps = (y if y > 0 else stride, x if x > 0 else stride)
    if min(steps) < 1:
        raise scope.section.error(f"stride={stride}; expected at least 1", "stride")
    return steps


def _antialias(
    scope: Scope, channels: int, sides: list[int], stride: tuple[int, int]
) -> tuple[operations.Blur | None, list[int]]:
    """Return the blur that ``antialiasing`` adds, which takes over the stride, and the sides of what leaves it."""
    kind = scope.section.integer("antialiasing", 0)
    if not kind:
        return None, sides
    size, padding = (2, 0) if kind == 2 else (3, 2)
    out = [_slide(side, size, step, padding) for side, step in zip(sides, stride, strict=True)]
    return operations.Blur(channels, size, stride), out


def _slide(size: int, kernel: int, stride: int, padding: int) -> int:
    """Count a window's positions on ``size`` pixels with ``padding`` more in all; 0 if it does not fit."""
    return max(0, (size + padding - kernel) // stride + 1)


_UNSUPPORTED = {"xnor": "binary weights", "binary": "binary weights", "flipped": "transposed weights"}


def _convolutional(scope: Scope) -> PlannedLayer:
    section, (channels, *sides) = scope.section, scope.shape
    for option, wanted in _UNSUPPORTED.items():
        if section.flag(option):
            raise section.error(f"{option}=1 asks for {wanted}, which are not supported", option)
    filters = section.integer("filters", 1, low=1)
    size = section.integer("size", 1, low=1)
    groups = section.integer("groups", 1, low=1)
    if channels % groups or filters % groups:
        raise section.error(f"groups={groups} does not divide {channels} channels and {filters} filters", "groups")
    dilation = section.integer("dilation", 1, low=1) if size > 1 else 1
    padding = dilation * (size // 2 if section.flag("pad") else section.integer("padding", 0, low=0))
    normalize = _normalizes(section)
    act = _activation(scope, "logistic")
    weights = prod(_weight_shape(section, channels))
    shared = _shared(scope)

    full_stride = _strides(scope)
    stride = (1, 1) if section.integer("antialiasing", 0) else full_stride
    reach = (size - 1) * dilation + 1
    sides = [_slide(side, reach, step, 2 * padding) for side, step in zip(sides, stride, strict=True)]
    blur, blurred = _antialias(scope, filters, sides, full_stride)

    def build(built: Sequence[nn.Module]) -> nn.Module:
        if shared is None:
            conv = nn.Conv2d(channels, filters, size, groups=groups, bias=not normalize)
            bn = nn.BatchNorm2d(filters, eps=BN_EPS) if normalize else None
        else:
            lender = built[shared]
            assert isinstance(lender, layers.StoredConvolution)
            conv, bn = lender.conv, lender.bn
        return layers.StoredConvolution(
            conv, bn, act(), stride=stride, padding=padding, dilation=dilation, blur=blur, shared=shared is not None
        )

    return scope.layer(
        FeatureShape(filters, *blurred),
        build,
        parameters=0 if shared is not None else weights + filters * (2 if normalize else 1),
        operations=2 * weights * sides[0] * sides[1],
    )


def _weight_shape(section: Section, channels: int) -> tuple[int, int, int, int]:
    """Return the shape of the weights of a convolution that reads ``channels``."""
    size = section.integer("size", 1)
    return section.integer("filters", 1), channels // section.integer("groups", 1), size, size


def _normalizes(section: Section) -> bool:
    return section.flag("batch_normalize") or section.flag("cbn")


def _shared(scope: Scope) -> int | None:
    """Return the index of the convolution whose weights ``share_index`` borrows; None if it borrows none."""
    if "share_index" not in scope.section.options:
        return None
    (index,) = scope.references("share_index")[:1]
    lender = scope.layers[index]
    if lender.kind != "convolutional":
        raise scope.section.error(f"share_index names {lender.place}; expected a convolution", "share_index")
    found = _weight_shape(lender.section, scope.shape_of(lender.sources[0]).channels), _normalizes(lender.section)
    needed = _weight_shape(scope.section, scope.shape.channels), _normalizes(scope.section)
    if found != needed:
        raise scope.section.error(
            f"share_index borrows weights of shape {found[0]}, batch_normalize={int(found[1])}; "
            f"this layer needs {needed[0]}, batch_normalize={int(needed[1])}",
            "share_index",
        )
    return index


def _connected(scope: Scope) -> PlannedLayer:
    section, inputs = scope.section, scope.shape.elements
    outputs = section.integer("output", 1, low=1)
    normalize = section.flag("batch_normalize")
    act = _activation(scope, "logistic")
    return scope.layer(
        FeatureShape(outputs, 1, 1),
        lambda _: layers.Connected(inputs, outputs, act(), normalize=normalize),
        parameters=inputs * outputs + outputs * (2 if normalize else 1),
    )


def _local(scope: Scope) -> PlannedLayer:
    section, (channels, height, width) = scope.section, scope.shape
    filters, size = section.integer("filters", 1, low=1), section.integer("size", 1, low=1)
    stride, padding = section.integer("stride", 1, low=1), int(section.flag("pad"))
    act = _activation(scope, "logistic")
    # Darknet sizes the output of a padded layer as if its kernel were 3; other sizes would read outside of the map.
    if padding and size != 3:
        raise section.error(f"pad=1 with size={size}; expected size=3", "size")
    out = (_slide(height, size, stride, 2 * padding), _slide(width, size, stride, 2 * padding))
    places = out[0] * out[1]
    weights = places * filters * channels * size * size
    return scope.layer(
        FeatureShape(filters, *out),
        lambda _: layers.Local(channels, filters, size, stride, padding, out, act()),
        parameters=weights + filters * places,
        operations=2 * weights,
    )


def _batchnorm(scope: Scope) -> PlannedLayer:
    channels = scope.shape.channels
    return scope.layer(scope.shape, lambda _: layers.BatchNorm(channels), parameters=2 * channels)


def _pool(scope: Scope, *, mean: bool) -> PlannedLayer:
    section, (channels, *sides) = scope.section, scope.shape
    if not mean and section.flag("maxpool_depth"):
        return _maxout(scope)
    size = section.integer("size", section.integer("stride", 1), low=1)
    padding = section.integer("padding", size - 1, low=0)
    padded = FeatureShape(channels, *(side + padding for side in sides))
    if padded.elements > MAX_ELEMENTS:
        raise section.error(f"pads its input to {padded}; more than {MAX_ELEMENTS:,} values")
    full_stride = _strides(scope)
    stride = (1, 1) if not mean and section.integer("antialiasing", 0) else full_stride
    sides = [_slide(side, size, step, padding) for side, step in zip(sides, stride, strict=True)]
    blur, blurred = (None, sides) if mean else _antialias(scope, channels, sides, full_stride)
    return scope.layer(
        FeatureShape(channels, *blurred),
        lambda _: operations.Pool(size, stride, padding, mean=mean, blur=blur),
        operations=size * size * channels * sides[0] * sides[1],
    )


def _maxout(scope: Scope) -> PlannedLayer:
    section, (channels, height, width) = scope.section, scope.shape
    size = section.integer("size", section.integer("stride", 1), low=1)
    out = section.integer("out_channels", 1, low=1)
    if out > channels:
        raise section.error(f"out_channels={out} of {channels} channels; expected at most as many", "out_channels")
    return scope.layer(
        FeatureShape(out, height, width),
        lambda _: Maxout(out),
        operations=size * size * channels * height * width,
    )


def _avgpool(scope: Scope) -> PlannedLayer:
    return scope.layer(FeatureShape(scope.shape.channels, 1, 1), lambda _: operations.GlobalAverage())


def _route(scope: Scope) -> PlannedLayer:
    section, sources = scope.section, scope.references("layers")
    groups = section.integer("groups", 1, low=1)
    group_id = section.integer("group_id", 0, low=0)
    if group_id >= groups:
        raise section.error(f"group_id={group_id} of groups={groups}; expected 0 to {groups - 1}", "group_id")
    shapes = [scope.shape_of(source) for source in sources]
    for source, shape in zip(sources, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            raise section.error(
                f"layer {scope.index} joins layer {sources[0]} ({shapes[0]}) and layer {source} ({shape}); "
                "expected equal height and width",
                "layers",
            )
        if shape.channels % groups:
            raise section.error(f"groups={groups} does not divide layer {source}'s {shape.channels} channels", "groups")
    channels = sum(shape.channels for shape in shapes) // groups
    return scope.layer(
        FeatureShape(channels, *shapes[0][1:]), lambda _: operations.Route(groups, group_id), sources=sources
    )


def _shortcut(scope: Scope) -> PlannedLayer:
    section, sources = scope.section, (scope.previous, *scope.references("from"))
    act = _activation(scope, "linear")
    for source in sources[1:]:
        _check_addend(scope, source)
    kind = section.text("weights_type", "none")
    if kind not in ("none", "per_feature", "per_layer", "per_channel"):
        raise section.error(f"weights_type={shorten(kind)}; expected none, per_feature or per_channel", "weights_type")
    operation_count = scope.shape.elements * (len(sources) - 1)
    if kind == "none":
        return scope.layer(
            scope.shape, lambda _: operations.Shortcut(act()), sources=sources, operations=operation_count
        )
    normalization = section.text("weights_normalization", "none").replace("avg_relu", "relu")
    if normalization not in ("none", "relu", "softmax"):
        raise section.error(
            f"weights_normalization={shorten(normalization)}; expected none, relu or softmax", "weights_normalization"
        )
    channels = scope.shape.channels if kind == "per_channel" else 1
    return scope.layer(
        scope.shape,
        lambda _: layers.WeightedShortcut(len(sources), channels, normalization, act()),
        sources=sources,
        parameters=len(sources) * channels,
        operations=operation_count,
    )


def _check_addend(scope: Scope, source: int) -> None:
    """Refuse a shortcut whose other map is not a whole number of times larger or smaller, alike in both directions."""
    own, other = scope.shape, scope.shape_of(source)
    if own.height // other.height != own.width // other.width or other.height // own.height != other.width // own.width:
        raise scope.section.error(
            f"layer {scope.index} adds layer {source} ({other}) to {own}; "
            "expected the same size, or the same multiple of it in both directions",
            "from",
        )


def _scale_channels(scope: Scope) -> PlannedLayer:
    section, own, source = scope.section, scope.shape, scope.references("from")[0]
    other, act = scope.shape_of(source), _activation(scope, "linear")
    fits = (
        own.channels == 1 and own[1:] == other[1:]
        if section.flag("scale_wh")
        else own == FeatureShape(other.channels, 1, 1)
    )
    if not fits:
        expected = f"1 x {other.height} x {other.width}" if section.flag("scale_wh") else f"{other.channels} x 1 x 1"
        raise section.error(
            f"layer {scope.index} scales layer {source} ({other}) by {own}; expected {expected}", "from"
        )
    return scope.layer(other, lambda _: operations.Scale(act()), sources=(scope.previous, source))


def _sam(scope: Scope) -> PlannedLayer:
    section, own, source = scope.section, scope.shape, scope.references("from")[0]
    other, act = scope.shape_of(source), _activation(scope, "linear")
    if own != other:
        raise section.error(
            f"layer {scope.index} multiplies {own} by layer {source} ({other}); expected equal shapes", "from"
        )
    return scope.layer(own, lambda _: operations.Scale(act()), sources=(scope.previous, source))


def _upsample(scope: Scope) -> PlannedLayer:
    channels, height, width = scope.shape
    factor, scale = scope.section.integer("stride", 2, low=1), scope.section.number("scale", 1)
    return scope.layer(
        FeatureShape(channels, height * factor, width * factor), lambda _: operations.Upsample(factor, scale)
    )


def _reorg(scope: Scope, build: Callable[[int], nn.Module]) -> PlannedLayer:
    section, (channels, height, width) = scope.section, scope.shape
    stride = section.integer("stride", 1, low=1)
    if section.flag("reverse"):
        raise section.error("reverse=1 is not supported", "reverse")
    if height % stride or width % stride or (section.kind == "reorg" and channels % stride**2):
        raise section.error(f"stride={stride} does not divide the layer before, {scope.shape}", "stride")
    return scope.layer(FeatureShape(channels * stride**2, height // stride, width // stride), lambda _: build(stride))


def _normalization(scope: Scope) -> PlannedLayer:
    section = scope.section
    size = section.integer("size", 5, low=1, high=10_001)
    alpha, beta, kappa = section.number("alpha", 1e-4), section.number("beta", 0.75), section.number("kappa", 1)
    if scope.shape.channels <= size // 2:
        raise section.error(f"size={size} spans more than the {scope.shape.channels} channels", "size")
    return scope.layer(scope.shape, lambda _: operations.LocalResponseNorm(size, alpha, beta, kappa))


def _crop(scope: Scope) -> PlannedLayer:
    section, (channels, height, width) = scope.section, scope.shape
    out = section.integer("crop_height", 1, low=1), section.integer("crop_width", 1, low=1)
    if out[0] > height or out[1] > width:
        raise section.error(f"crops {out[0]} x {out[1]} out of {height} x {width}")
    adjust = not section.flag("noadjust")
    return scope.layer(FeatureShape(channels, *out), lambda _: operations.Crop(*out, adjust=adjust))


def _implicit(scope: Scope) -> PlannedLayer:
    section = scope.section
    filters, atoms = section.integer("filters", 128, low=1), section.integer("atoms", 1, low=1)
    mean, spread = section.number("mean", 0.0), section.number("std", 0.2)
    return scope.layer(
        FeatureShape(filters, atoms, 1),
        lambda _: layers.Implicit(filters, atoms, mean, spread),
        parameters=filters * atoms,
    )


def _active(scope: Scope) -> PlannedLayer:
    act = _activation(scope, "linear")
    return scope.layer(scope.shape, lambda _: operations.Activation(act()))


def _pass(scope: Scope) -> PlannedLayer:
    return scope.layer(scope.shape, lambda _: nn.Identity())


def _recurrent(scope: Scope) -> PlannedLayer:
    raise scope.section.error("is a recurrent layer; only feed-forward networks are supported")


KINDS: dict[str, Callable[[Scope], PlannedLayer]] = {
    "convolutional": _convolutional,
    "connected": _connected,
    "local": _local,
    "batchnorm": _batchnorm,
    "maxpool": partial(_pool, mean=False),
    "local_avgpool": partial(_pool, mean=True),
    "avgpool": _avgpool,
    "route": _route,
    "shortcut": _shortcut,
    "scale_channels": _scale_channels,
    "sam": _sam,
    "upsample": _upsample,
    "reorg": partial(_reorg, build=operations.Reorg),
    "reorg3d": partial(_reorg, build=operations.SpaceToDepth),
    "normalization": _normalization,
    "crop": _crop,
    "implicit": _implicit,
    "activation": _active,
    **dict.fromkeys(("dropout", "cost", "contrastive", "empty"), _pass),  # nothing to do at inference
    **dict.fromkeys(("rnn", "crnn", "gru", "lstm", "conv_lstm", "history"), _recurrent),
    **OUTPUT_KINDS,
}
