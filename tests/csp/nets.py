"""Small networks to convert, as people write them."""

import torch
from torch import nn


def conv(inputs, outputs, kernel=3, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Bottleneck(nn.Module):
    """ResNeXt's."""

    def __init__(self, inputs, inner, outputs, stride=1, groups=1):
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, inner, 1), conv(inner, inner, 3, stride, groups), conv(inner, outputs, 1)[:2]
        )
        self.shortcut = conv(inputs, outputs, 1, stride)[:2] if inputs != outputs or stride > 1 else nn.Identity()

    def forward(self, x):
        return (self.body(x) + self.shortcut(x)).relu()


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, 4 * growth, 1)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, maps):
        return self.conv2(self.conv1(self.norm(torch.cat(maps, 1)).relu()))


class DenseBlock(nn.Module):
    def __init__(self, inputs, growth, count):
        super().__init__()
        for number in range(count):
            self.add_module(f"layer{number}", DenseLayer(inputs + number * growth, growth))

    def forward(self, x):
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.query_key_value, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), conv(width, width)

    def forward(self, x):
        batch, width, height, breadth = x.shape
        parts = self.query_key_value(self.norm(x.flatten(2).transpose(1, 2))).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        return x + self.out(mixed.transpose(1, 2).reshape(batch, width, height, breadth))


class Net(nn.Module):
    """A stem, whatever is given, and a classifier."""

    def __init__(self, width, outputs, *stages, classes=10):
        super().__init__()
        self.stem = conv(3, width, 3, 2)
        for number, stage in enumerate(stages, 1):
            self.add_module(f"stage{number}", stage)
        self.head = nn.Linear(outputs, classes)

    def forward(self, images):
        x = images
        for name, module in self.named_children():
            x = module(x.mean((2, 3)) if name == "head" else x)
        return x


def resnext():
    return Net(
        32,
        128,
        nn.Sequential(Bottleneck(32, 16, 64), *[Bottleneck(64, 16, 64) for _ in range(2)]),
        nn.Sequential(Bottleneck(64, 32, 128, 2, groups=8), *[Bottleneck(128, 32, 128, groups=8) for _ in range(2)]),
    )


def densenet():
    def transition(inputs):
        return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, inputs // 2, 1), nn.AvgPool2d(2))

    return Net(32, 112, DenseBlock(32, 16, 6), transition(128), DenseBlock(64, 16, 3))


def one_bottleneck():
    """A stage too thin for transitions, and one that is not."""
    return Net(
        64,
        64,
        nn.Sequential(Bottleneck(64, 16, 64)),
        nn.AvgPool2d(2),
        nn.Sequential(*[Bottleneck(64, 64, 64) for _ in range(2)]),
    )


def thin():
    """Blocks that cost less than transitions."""
    return Net(64, 64, nn.Sequential(*[Bottleneck(64, 16, 64) for _ in range(2)]))


def vgg():
    """Single layers in a row."""
    features = nn.Sequential(
        *[nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()],
        *[nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)],
    )
    return nn.Sequential(features, nn.Flatten(), nn.Linear(64, 10))


def attention():
    return Net(32, 32, nn.Sequential(Attention(32), Attention(32)))


class Written(nn.Module):
    """Layers called one by one."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x):
        return self.conv3(self.conv2(self.conv1(x).relu()).relu()).mean((2, 3))


class Shared(nn.Module):
    """Blocks that run twice."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 32)
        self.stage = nn.Sequential(Bottleneck(32, 16, 32), Bottleneck(32, 16, 32))

    def forward(self, x):
        return self.stage(self.stage(self.stem(x)))
