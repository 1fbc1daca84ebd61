"""Darknet networks as text, written from their published structure, and random weights for them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from crossstage.darknet import DarknetNetwork
from crossstage.darknet.layers import Implicit, Local, WeightedShortcut
from crossstage.nn.conv import FrozenBatchNorm

Network = TypeVar("Network", bound=nn.Module)

ANCHORS_TINY = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"


def section(kind: str, **options: object) -> str:
    return f"[{kind}]\n" + "".join(f"{key}={value}\n" for key, value in options.items()) + "\n"


def net(width: int, height: int | None = None, channels: int = 3) -> str:
    return section("net", width=width, height=height or width, channels=channels)


def conv(filters: int, size: int = 1, stride: int = 1, activation: str = "leaky", **options: object) -> str:
    """A convolution with batch norm; `bn=0` gives it a bias instead."""
    bn = options.pop("bn", 1)
    options = {"batch_normalize": 1, **options} if bn else options
    options = {"filters": filters, "size": size, "stride": stride, "pad": 1, "activation": activation, **options}
    return section("convolutional", **options)


def route(*layers: int, **options: object) -> str:
    return section("route", layers=",".join(map(str, layers)), **options)


def shortcut(source: int | str, activation: str = "linear", **options: object) -> str:
    return section("shortcut", **{"from": source, "activation": activation, **options})


def maxpool(size: int = 2, stride: int = 2, **options: object) -> str:
    return section("maxpool", size=size, stride=stride, **options)


def classifier(classes: int = 1000) -> str:
    return section("avgpool") + conv(classes, activation="linear", bn=0) + section("softmax", groups=1)


def squeeze_excitation(channels: int, hidden: int) -> str:
    text = section("avgpool") + conv(hidden, activation="relu", bn=0) + conv(channels, activation="logistic", bn=0)
    return text + section("scale_channels", **{"from": -4})


def yolo(mask: str, anchors: str, classes: int = 80, **options: object) -> str:
    num = len(anchors.split(",")) // 2
    return section("yolo", mask=mask, anchors=anchors, classes=classes, num=num, **options)


def yolov4_tiny(width: int = 416, height: int | None = None, classes: int = 80) -> str:
    out = 3 * (5 + classes)
    text = net(width, height) + conv(32, 3, 2) + conv(64, 3, 2)
    for c in (64, 128, 256):
        text += conv(c, 3) + route(-1, groups=2, group_id=1) + conv(c // 2, 3) + conv(c // 2, 3)
        text += route(-1, -2) + conv(c) + route(-6, -1) + maxpool()
    text += conv(512, 3) + conv(256) + conv(512, 3) + conv(out, activation="linear", bn=0)
    text += yolo("3,4,5", ANCHORS_TINY, classes, scale_x_y=1.05)
    text += route(-4) + conv(128) + section("upsample", stride=2) + route(-1, 23)
    text += conv(256, 3) + conv(out, activation="linear", bn=0)
    return text + yolo("1,2,3", ANCHORS_TINY, classes, scale_x_y=1.05)


def _tiny_trunk() -> str:
    text = "".join(conv(c, 3) + maxpool() for c in (16, 32, 64, 128, 256))
    return text + conv(512, 3) + maxpool(2, 1)


def yolov3_tiny(width: int = 416, height: int | None = None) -> str:
    text = net(width, height) + _tiny_trunk() + conv(1024, 3) + conv(256) + conv(512, 3)
    text += conv(255, activation="linear", bn=0) + yolo("3,4,5", ANCHORS_TINY)
    text += route(-4) + conv(128) + section("upsample", stride=2) + route(-1, 8)
    return text + conv(256, 3) + conv(255, activation="linear", bn=0) + yolo("0,1,2", ANCHORS_TINY)


def yolov3_tiny_prn(width: int = 416, height: int | None = None) -> str:
    text = net(width, height) + _tiny_trunk() + conv(512, 3) + shortcut(10, "leaky")
    text += conv(256) + conv(256, 3) + shortcut(-2, "leaky")
    text += conv(255, activation="linear", bn=0) + yolo("3,4,5", ANCHORS_TINY)
    text += route(-4) + conv(128) + section("upsample", stride=2) + shortcut(8, "leaky")
    text += conv(128, 3) + shortcut(-3, "leaky") + shortcut(8, "leaky")
    return text + conv(255, activation="linear", bn=0) + yolo("1,2,3", ANCHORS_TINY)


def darknet_reference(width: int = 256) -> str:
    text = net(width) + conv(16, 3)
    return text + "".join(maxpool() + conv(c, 3) for c in (32, 64, 128, 256, 512, 1024)) + classifier()


def darknet53(width: int = 256) -> str:
    text = net(width) + conv(32, 3)
    for c, depth in zip((64, 128, 256, 512, 1024), (1, 2, 8, 8, 4), strict=True):
        text += conv(c, 3, 2) + (conv(c // 2) + conv(c, 3) + shortcut(-3)) * depth
    return text + classifier()


def cspdarknet53(width: int = 256, first: str = "whole") -> str:
    """`first` is the released network's "whole", 53s's "plain" or 53m's "half"."""
    text = net(width) + conv(32, 3)
    for c, depth in zip((64, 128, 256, 512, 1024), (1, 2, 8, 8, 4), strict=True):
        if c == 64 and first == "plain":
            text += conv(64, 3, 2) + conv(32) + conv(64, 3) + shortcut(-3)
            continue
        part, hidden = (64, 32) if c == 64 and first == "whole" else (c // 2, c // 2)
        text += conv(c, 3, 2) + conv(part) + route(-2) + conv(part)
        text += (conv(hidden) + conv(part, 3) + shortcut(-3)) * depth
        text += conv(part) + route(-1, -(3 * depth + 4)) + conv(c)
    return text + classifier()


def cspdarknet53_elastic(width: int = 256) -> str:
    text = net(width) + conv(32, 3)
    for c, depth in zip((64, 128, 256, 512, 1024), (1, 2, 8, 8, 4), strict=True):
        part = 64 if c == 64 else c // 2
        half = conv(part // 2) + conv(part // 2, 3)
        block = route(-1, groups=2, group_id=0) + half + route(-4, groups=2, group_id=1) + maxpool() + half
        block += section("upsample", stride=2) + route(-6, -1) + shortcut(-10)
        text += conv(c, 3, 2) + conv(part) + route(-2) + conv(part) + block * depth
        text += conv(part) + route(-1, -(10 * depth + 4)) + conv(c)
    return text + classifier()


def _csp_bottleneck(
    width: int,
    stages: list[tuple[int, int, int]],
    outs: list[int],
    groups: int,
    *,
    narrow_first: bool = True,
    elastic: bool = False,
) -> str:
    """CSPResNet-50 and CSPResNeXt-50; a stage is (hidden, part, depth)."""
    text = net(width) + conv(64, 7, 2) + maxpool()
    for index, ((hidden, part, depth), out) in enumerate(zip(stages, outs, strict=True)):
        act = "leaky" if index in (0, 3) else "linear"
        if index:
            text += conv(outs[index - 1], 3, 2, groups=groups)
        first = 64 if index == 0 and narrow_first else part
        text += conv(part, activation=act) + route(-2) + conv(first, activation=act)
        convs = conv(hidden) + conv(hidden, 3, groups=groups) + conv(part, activation="linear")
        block, layers = convs + shortcut(-4, "leaky"), 4
        if elastic:
            block, layers = elastic_block(part // 2, part, groups=max(1, groups // 2)), 12
        text += block * depth + conv(part) + route(-1, -(layers * depth + 4)) + conv(out)
    return text + classifier()


def cspresnet50(width: int = 256, **options: bool) -> str:
    stages = [(64, 128, 3), (128, 256, 3), (256, 512, 5), (512, 1024, 2)]
    return _csp_bottleneck(width, stages, [128, 256, 512, 1024], 1, **options)


def cspresnext50(width: int = 256, **options: bool) -> str:
    stages = [(128, 128, 3), (256, 256, 3), (512, 512, 5), (1024, 1024, 2)]
    return _csp_bottleneck(width, stages, [256, 512, 1024, 2048], 32, **options)


def elastic_block(hidden: int, part: int, groups: int = 1) -> str:
    """A block of CSPResNe(X)t-50-elastic: half of the channels at full size, half pooled and enlarged again."""
    convs = conv(hidden) + conv(hidden, 3, groups=groups) + conv(part // 2, activation="linear")
    text = route(-1, groups=2, group_id=0) + convs + route(-5, groups=2, group_id=1) + maxpool() + convs
    return text + section("upsample", stride=2) + route(-7, -1) + shortcut(-12, "leaky")


def mobilenetv2(width: int = 224) -> str:
    """MobileNetV2 as CSPNet's authors trained it: the 64-channel blocks are at stride 8."""
    relu = "relu"
    text = net(width) + conv(32, 3, 2, relu)
    c = 32
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 1), (6, 96, 3, 2), (6, 160, 3, 2), (6, 320, 1, 1)]
    for t, out, n, s in table:
        for block in range(n):
            stride = s if block == 0 else 1
            text += conv(c * t, activation=relu) + conv(c * t, 3, stride, relu, groups=c * t)
            text += conv(out, activation="linear") + (shortcut(-4) if block else "")
            c = out
    return text + conv(1280, activation=relu) + classifier()


def cspmobilenetv2(width: int = 224) -> str:
    relu = "relu"
    text = net(width) + conv(32, 3, 2, relu)
    text += conv(16, 3, 1, relu, groups=16) + route(-2)
    text += conv(32, activation=relu) + conv(32, 3, 1, relu, groups=32) + conv(16, activation="linear")
    text += route(-1, -5) + conv(48, activation=relu)
    c = 48
    for groups, out in (
        (((24, 2),), 72),
        (((32, 3), (64, 4)), 192),
        (((96, 3),), 288),
        (((160, 3), (320, 1)), 640),
    ):
        text += conv(c, 3, 2, relu, groups=c) + route(-2)
        layers = 1  # since the carried part's convolution
        width_now, first = c, True
        for channels, blocks in groups:
            for _ in range(blocks):
                if first:
                    text += conv(2 * c, 3, 2, relu, groups=c) + conv(channels, activation="linear")
                    layers += 2
                else:
                    text += conv(3 * width_now, activation=relu)
                    text += conv(6 * width_now, 3, 1, relu, groups=3 * width_now) + conv(channels, activation="linear")
                    layers += 3
                    if width_now == channels:
                        text += shortcut(-4)
                        layers += 1
                width_now, first = channels, False
        text += route(-1, -(layers + 1)) + conv(out, activation=relu)
        c = out
    return text + classifier()


def resnet50(width: int = 256) -> str:
    """ResNet-50 as released with CSPNet: shortcuts without projection, strided and partial where sizes change.

    It classifies every pixel and then averages. The file that CSPNet's table counts, "in progress", averages first.
    """
    return _resnet50_trunk(width) + conv(1000, activation="linear", bn=0) + section("avgpool") + section("softmax")


def resnet50_in_progress(width: int = 256) -> str:
    return _resnet50_trunk(width) + classifier()


def resnext50(width: int = 256) -> str:
    return _resnet50_trunk(width, hidden=2, groups=32) + classifier()


def _resnet50_trunk(width: int, hidden: int = 1, groups: int = 1) -> str:
    text = net(width) + conv(64, 7, 2) + maxpool()
    for c, depth in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        for block in range(depth):
            stride = 2 if c > 64 and block == 0 else 1
            text += conv(hidden * c) + conv(hidden * c, 3, stride, groups=groups)
            text += conv(4 * c, activation="linear") + shortcut(-4, "leaky")
    return text


def resnet10(width: int = 256) -> str:
    text = net(width) + conv(64, 7, 2) + maxpool()
    for c, stride in zip((64, 128, 256, 512), (1, 2, 2, 2), strict=True):
        text += conv(c, 3, stride) + conv(c, 3, activation="linear") + shortcut(-3, "leaky")
    return text + classifier()


ANCHORS_V3 = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
ANCHORS_V4 = "12,16, 19,36, 40,28, 36,75, 76,55, 72,146, 142,110, 192,243, 459,401"


def _count(text: str) -> int:
    """Layers of a network's text, which is the index of the next."""
    return text.count("[") - 1


def _detect(mask: str, anchors: str = ANCHORS_V3, **options: object) -> str:
    return conv(255, activation="linear", bn=0) + yolo(mask, anchors, **options)


def _pair(narrow: int, times: int) -> str:
    return (conv(narrow) + conv(2 * narrow, 3)) * times


def _deepest(spp: bool) -> str:
    """Five convolutions, or six around the spatial pyramid pooling."""
    if not spp:
        return _pair(512, 2) + conv(512)
    pools = maxpool(5, 1) + route(-2) + maxpool(9, 1) + route(-4) + maxpool(13, 1) + route(-1, -3, -5, -6)
    return _pair(512, 1) + conv(512) + pools + _pair(512, 1) + conv(512)


def yolov3(width: int = 416, spp: bool = False) -> str:
    text = darknet53(width).removesuffix(classifier()) + _deepest(spp) + conv(1024, 3) + _detect("6,7,8")
    for narrow, tap, mask in ((256, 61, "3,4,5"), (128, 36, "0,1,2")):
        text += route(-4) + conv(narrow) + section("upsample", stride=2) + route(-1, tap)
        text += _pair(narrow, 3) + _detect(mask)
    return text


def panet_spp(
    trunk: str,
    taps: tuple[int, int],
    anchors: str = ANCHORS_V3,
    scales: tuple[float, float, float] = (1, 1, 1),
) -> str:
    """The detectors that CSPNet's authors released, on a classifier's text; `taps` are its layers at strides 8, 16."""
    text = trunk.removesuffix(classifier()) + _deepest(spp=True)
    ends = {512: _count(text) - 1}
    for narrow, tap in ((256, taps[1]), (128, taps[0])):
        text += conv(narrow) + section("upsample", stride=2) + route(tap) + conv(narrow) + route(-1, -3)
        text += _pair(narrow, 2) + conv(narrow)
        ends[narrow] = _count(text) - 1
    text += conv(256, 3) + _detect("0,1,2", anchors, scale_x_y=scales[0])
    for narrow, mask, scale in ((256, "3,4,5", scales[1]), (512, "6,7,8", scales[2])):
        text += route(-4) + conv(narrow, 3, 2) + route(-1, ends[narrow])
        text += _pair(narrow, 3) + _detect(mask, anchors, scale_x_y=scale)
    return text


def yolov4(width: int = 608) -> str:
    trunk = cspdarknet53(width).removesuffix(classifier()).replace("activation=leaky", "activation=mish")
    return panet_spp(trunk, (54, 85), ANCHORS_V4, (1.2, 1.1, 1.05))


def panet_spp_neck(width: int = 64) -> str:
    """The neck of CSPResNeXt50-PANet-SPP on a trunk of three strided convolutions, an eighth as wide."""
    text = net(width) + conv(8, 3, 2) + conv(16, 3, 4) + conv(32, 3, 2) + conv(64, 3, 2)  # 1: s8, 2: s16, 3: s32
    text += conv(32) + conv(64, 3) + conv(32)
    text += maxpool(5, 1) + route(-2) + maxpool(9, 1) + route(-4) + maxpool(13, 1) + route(-1, -3, -5, -6)
    text += conv(32) + conv(64, 3) + conv(32)  # 13..15: P5 is 15
    text += conv(16) + section("upsample", stride=2) + route(2) + conv(16) + route(-1, -3) + conv(16) + conv(32, 3)
    text += conv(16)  # P4 is 23
    text += conv(8) + section("upsample", stride=2) + route(1) + conv(8) + route(-1, -3) + conv(8) + conv(16, 3)
    text += conv(255, activation="linear", bn=0) + yolo("0,1,2", ANCHORS_TINY, scale_x_y=1.2)
    text += route(-3) + conv(16, 3, 2) + route(-1, 23) + conv(16)
    return text + conv(255, activation="linear", bn=0) + yolo("3,4,5", ANCHORS_TINY, scale_x_y=1.1)


def randomize(network: Network, seed: int = 0) -> Network:
    """Give a network parameters that keep signals near one, batch statistics included."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, std: float) -> None:
        tensor.normal_(0, std, generator=generator)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, FrozenBatchNorm, nn.GroupNorm)):
                uniform(module.weight, 0.7, 1.3)
                normal(module.bias, 0.1)
                if not isinstance(module, nn.GroupNorm):
                    normal(module.running_mean, 0.1)
                    uniform(module.running_var, 0.5, 2)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                normal(module.weight, (2 / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    normal(module.bias, 0.1)
    return network


def drawn(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network whose parameters are drawn once: it is built without memory, then :func:`randomize` fills it."""
    with torch.device("meta"):
        network = build()
    return randomize(network.to_empty(device="cpu"), seed)


def load_text(text: str, folder: Path, name: str = "net") -> DarknetNetwork:
    """A network of a cfg's text, with random parameters."""
    (folder / f"{name}.cfg").write_text(text)
    with torch.device("meta"):
        network = DarknetNetwork.from_cfg(folder / f"{name}.cfg")
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, (Implicit, Local, WeightedShortcut)):  # the rest is drawn below
            module.reset_parameters()
    return randomize(network).eval()


def undrawn(build: Callable[[], nn.Module]) -> nn.Module:
    """A network whose parameters are whatever was in memory, to be filled from a file."""
    with torch.device("meta"):
        network = build()
    return network.to_empty(device="cpu").eval()
