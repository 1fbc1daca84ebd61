"""Conversion tried on networks that no test names: converted and trainable, or refused in one line.

Each network gets its cross stage partial variant, which must give maps of the shapes that the plain network gives, in
evaluation and in training, and take a step of training with gradients that are finite. Prints a table.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from crossstage.csp import to_partial
from crossstage.errors import ConfigError
from research.soak import networks

BATCH = 2

NETWORKS = {
    "timm": """
        bat_resnext26ts botnet26t_256 caformer_s18 convformer_s18 convmixer_768_32 convnextv2_atto
        coatnet_nano_rw_224 cs3darknet_s dla46_c dm_nfnet_f0 dpn48b eca_nfnet_l0 ecaresnet26t edgenext_xx_small
        efficientformer_l1 efficientnet_b0_gn efficientnet_cc_b0_4e efficientnetv2_rw_t efficientvit_b0
        ese_vovnet19b_dw fasternet_t0 fastvit_t8 fbnetc_100 gcresnext26ts gernet_s ghostnet_100 ghostnetv2_100
        hardcorenas_a hgnetv2_b0 inception_next_atto inception_v4 lambda_resnet26t lcnet_050 legacy_seresnet18
        mambaout_femto maxvit_pico_rw_256 mixnet_s mobilenetv4_conv_small mobileone_s0 mobilevit_xxs nf_regnet_b0
        poolformer_s12 poolformerv2_s12 regnetz_005 repghostnet_050 repvit_m0_9 res2net50_26w_4s resnest14d
        resnetblur18 resnetv2_50 rexnet_100 selecsls42 hrnet_w18_small_v2+features mobilenetv3_small_050+features
        resnet10t+features shvit_s1 skresnet18 starnet_s050 swin_tiny_patch4_window7_224 tinynet_e tresnet_m vgg11
        vit_tiny_patch16_224 xception41
    """.split(),
    "torchvision": """
        alexnet deeplabv3_mobilenet_v3_large fcn_resnet50 googlenet inception_v3 lraspp_mobilenet_v3_large maxvit_t
        mnasnet0_5 mobilenet_v3_small efficientnet_v2_s regnet_x_400mf resnet34 retinanet_resnet50_fpn r3d_18
        shufflenet_v2_x0_5 squeezenet1_1 ssdlite320_mobilenet_v3_large swin_t vgg11_bn wide_resnet50_2
    """.split(),
    "own": sorted(networks.NETWORKS),
}
SIDES = {
    **{"bat_resnext26ts": 128, "inception_v4": 96, "inception_v3": 299, "maxvit_pico_rw_256": 256},
    **dict.fromkeys(
        ("coatnet_nano_rw_224", "swin_tiny_patch4_window7_224", "maxvit_t", "vit_tiny_patch16_224"),
        224,
    ),
}
"""Sides of images in pixels, where not 64."""


@dataclass(frozen=True)
class Outcome:
    """What became of a network.

    Attributes:
        name: The library's and the network's.
        kind: ``"converted"``, ``"refused"`` or ``"wrong"``.
        why: The refusal's line, or what is wrong; of a converted network how much cheaper it got.
        seconds: What the conversion and the check took.
    """

    name: str
    kind: str
    why: str
    seconds: float


def try_network(name: str, make: Callable[[], nn.Module], side: int) -> Outcome:
    """Convert a network and train the variant for a step."""
    start = time.perf_counter()
    torch.manual_seed(0)
    random.seed(0)
    try:
        kind, why = "converted", _converted(make(), side)
    except ConfigError as error:
        kind, why = ("refused", str(error)) if "\n" not in str(error) else ("wrong", f"in several lines: {error}")
    except Exception as error:  # the check is of whatever a network makes of it
        kind, why = "wrong", f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}"
    return Outcome(name, kind, why, time.perf_counter() - start)


class WrongError(Exception):
    """The variant does not do what the plain network does."""


def _converted(plain: nn.Module, side: int) -> str:
    variant, report = to_partial(plain, example_input=torch.empty(1, 3, side, side, device="meta"))
    images = torch.randn(BATCH, 3, side, side)
    for model in (plain, variant):
        model.eval()
    with torch.no_grad():
        _same("evaluation", _shapes(plain(images)), _shapes(variant(images)))
    try:
        expected = _train(copy.deepcopy(plain), images)
    except Exception as error:  # a network that cannot train on images alone says nothing of its variant
        return f"{_saving(report)}; the plain network does not train here: {str(error).splitlines()[0][:60]}"
    _same("training", expected, _train(variant, images))
    variant.eval()
    with torch.no_grad():
        variant(images)
    return _saving(report)


def _saving(report: Any) -> str:
    return f"{report.flops_after / report.flops_before - 1:+.0%} operations, {len(report.stages)} stages"


def _same(what: str, expected: list[tuple[int, ...]], found: list[tuple[int, ...]]) -> None:
    if expected != found:
        raise WrongError(f"gives {found} in {what}; expected {expected}")


def _train(model: nn.Module, images: Tensor) -> list[tuple[int, ...]]:
    """Take a step and return the shapes of the outputs in training.

    Raises:
        WrongError: A gradient is not finite, or nothing learned.
    """
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    outputs = model(images)
    loss = sum(leaf.float().square().mean() for leaf in _tensors(outputs))
    assert isinstance(loss, Tensor)
    loss.backward()
    learned = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if not learned or not all(
        bool(parameter.grad.isfinite().all()) for parameter in learned if parameter.grad is not None
    ):
        raise WrongError("has gradients that are missing or not finite")
    torch.optim.SGD(learned, 1e-4).step()
    return _shapes(outputs)


def _tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _shapes(outputs: object) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in _tensors(outputs)]


def _makers(libraries: Sequence[str]) -> Iterator[tuple[str, Callable[[], nn.Module], int]]:
    makers = {"timm": _timm, "torchvision": _torchvision}
    for library in libraries:
        for name in NETWORKS[library]:
            make = networks.NETWORKS[name] if library == "own" else partial(makers[library], name)
            yield f"{library}:{name}", make, SIDES.get(name, 64)


def _timm(name: str) -> nn.Module:
    import timm

    name, _, form = name.partition("+")
    return timm.create_model(name, features_only=True) if form else timm.create_model(name, num_classes=10)


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model

    parts = any(kind in name for kind in ("deeplab", "fcn", "lraspp", "retinanet", "ssd"))
    return get_model(name, weights=None, **({"weights_backbone": None} if parts else {}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the networks, print a table, and return 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", action="append", choices=tuple(NETWORKS), help="one of these alone")
    parser.add_argument("--only", nargs="+", default=[], help="networks with these words in their names alone")
    given = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    print("| network | outcome | what | seconds |\n|---|---|---|---|")
    for name, make, side in _makers(given.library or tuple(NETWORKS)):
        if given.only and not any(word in name for word in given.only):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = try_network(name, make, side)
        counts[outcome.kind] += 1
        print(f"| {outcome.name} | {outcome.kind} | {outcome.why} | {outcome.seconds:.1f} |", flush=True)
    print(f"\n{counts['converted']} converted, {counts['refused']} refused, {counts['wrong']} wrong")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
