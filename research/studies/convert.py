"""Fifteen networks of other libraries, and one of our own making, as cross stage partial networks.

    python -m research.studies.convert DATA RUNS > docs/claims/convert.md

DATA is imagenette128, RUNS a folder for the results, a file for each network; those that are there already are not run
again. About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
import tarfile
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from crossstage import Partial, to_partial
from crossstage.csp import ConversionPlan, Trace, plan_network
from crossstage.files import write_text
from crossstage.nn.partial import Fusion, SplitKind
from crossstage.weights.ref import parse
from crossstage.weights.resolving import resolve
from research.bench.timing import machine
from research.places import EXAMPLES

EXAMPLE = EXAMPLES / "small_cnn.py"
NETWORKS = [
    *(
        f"torchvision-network:{name}"
        for name in (
            "resnet18",
            "resnet50",
            "resnext50_32x4d",
            "densenet121",
            "mobilenet_v2",
            "efficientnet_b0",
            "convnext_tiny",
            "regnet_y_400mf",
            "shufflenet_v2_x1_0",
        )
    ),
    *(
        f"timm-network:{name}"
        for name in (
            "resnet26d",
            "darknet53",
            "ese_vovnet39b",
            "mobilenetv3_large_100",
            "repvgg_a0",
            "hrnet_w18_small",
        )
    ),
    f"{EXAMPLE}:small_cnn",
]
GAMMAS = (0.25, 0.5, 0.75)
FUSIONS: tuple[Fusion, ...] = ("first", "last", "both")
SPLITS: tuple[SplitKind, ...] = ("project", "slice")
KINDS: list[tuple[Fusion, SplitKind]] = [(fusion, split) for fusion in FUSIONS for split in SPLITS]
IMAGES, SIDE, STEPS, RATE = 40, 64, 10, 1e-3
EXPORT_SIDE = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    options = parser.parse_args()
    images, labels = training_images(options.data)
    for name in NETWORKS:
        file = options.runs / f"{short(name)}.json"
        if not file.exists():
            start = time.perf_counter()
            write_text(file, json.dumps(run(name, images, labels), indent=1))
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(page({short(name): json.loads((options.runs / f"{short(name)}.json").read_text()) for name in NETWORKS}))


def short(name: str) -> str:
    """A network's name without where it comes from."""
    return parse(name).name


def training_images(data: Path) -> tuple[Tensor, Tensor]:
    """Training images of imagenette128, as many of each class, and their classes."""
    (archive,) = data.glob("*.tar.gz")
    found: dict[str, list[Tensor]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.split("/")
            if "train" not in parts or not member.name.endswith(".jpg"):
                continue
            chosen = found.setdefault(parts[-2], [])
            if len(chosen) < IMAGES // 10 and (file := tar.extractfile(member)):
                image = Image.open(io.BytesIO(file.read())).convert("RGB").resize((SIDE, SIDE))
                chosen.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.5)
    images = torch.stack([image for name in sorted(found) for image in found[name]])
    return images, torch.arange(10).repeat_interleave(IMAGES // 10)


def run(name: str, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """All figures of a network."""
    torch.manual_seed(0)
    plain = resolve(name, "cpu")
    example = torch.empty(1, 3, 224, 224)
    converted, report = to_partial(plain.module, Partial(), example_input=example)
    trace = Trace(plain.module, example)
    costs = {
        f"{fusion} {split}": [
            report.flops_before - saved(plan_network(trace, Partial(gamma, fusion, split))) for gamma in GAMMAS
        ]
        for fusion, split in KINDS
    }
    return {
        "stages": len(report.stages),
        "left": [f"{stage}: {why}" for stage, why in report.left],
        "flops": [report.flops_before, report.flops_after],
        "parameters": [report.parameters_before, report.parameters_after],
        "tensors": [len(report.whole), len(report.cut), len(report.new)],
        "costs": costs,
        "difference": onnx_difference(converted),
        "loss": losses(converted, images, labels),
    }


def saved(plan: ConversionPlan) -> int:
    """FLOPs that a plan saves."""
    return sum(stage.flops_before - stage.flops_after for _, stage in plan.stages)


def onnx_difference(model: nn.Module) -> float:
    """Largest difference of ONNX Runtime's outputs to torch's, over the largest output."""
    import onnxruntime

    model = model.eval()
    images = torch.randn(1, 3, EXPORT_SIDE, EXPORT_SIDE, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        path = f"{folder}/model.onnx"
        torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        expected = model(images)
    return float((torch.from_numpy(np.asarray(outputs)) - expected).abs().max() / expected.abs().max())


def losses(model: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Cross entropy before each step of a training on the same images."""
    model = model.train()
    optimiser = torch.optim.AdamW(model.parameters(), RATE)
    found = []
    for _ in range(STEPS):
        loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


def row(result: dict[str, Any]) -> list[str]:
    """Cells of the first table."""
    (flops, flops_after), (size, size_after) = result["flops"], result["parameters"]
    return [
        f"{result['stages']}",
        f"{len(result['left'])}",
        f"{flops / 1e9:.3f}",
        f"{flops_after / 1e9:.3f}",
        f"{flops_after / flops - 1:+.1%}",
        f"{size / 1e6:.2f}",
        f"{size_after / 1e6:.2f}",
        f"{size_after / size - 1:+.1%}",
        *map(str, result["tensors"]),
        f"{result['difference']:.0e}",
        f"{result['loss'][0]:.2f}",
        f"{result['loss'][-1]:.2f}",
    ]


def page(results: dict[str, dict[str, Any]]) -> str:
    """The page of all results."""
    lines = [
        "# Any network as a cross stage partial network",
        "",
        f"Written by `python -m research.studies.convert DATA RUNS`, {datetime.date.today()}, {machine()}.",
        "",
        "`to_partial` at γ 0.5, fusion both, split project: the stages that get cheaper. BFLOPs (2 x multiply-adds)",
        "and parameters on one 224 x 224 image. *Tensors* of the converted state dict: as in the plain network, cut",
        "from its wider ones, and new. *ONNX*: the largest difference of ONNX Runtime's output to torch's over the",
        f"largest output, at {EXPORT_SIDE} x {EXPORT_SIDE}, weights random. *Loss*: cross entropy before the first and",
        f"the last of {STEPS} steps of AdamW (rate {RATE:g}) on the same {IMAGES} training images of imagenette at",
        f"{SIDE} x {SIDE}: it tells that the network learns, not how well.",
        "",
        "| network | stages | left | BFLOPs before | after | | M parameters before | after | | "
        "tensors: whole | cut | new | ONNX | loss first | last |",
        "|---|---:|---:|" + "---:|" * 12,
    ]
    lines += [f"| {name} | {' | '.join(row(result))} |" for name, result in results.items()]
    lines += [
        "",
        "## γ, fusion and split",
        "",
        "BFLOPs at γ 0.25 / 0.5 / 0.75; more than before where no stage gets cheaper.",
        "",
    ]
    lines += [
        "| network | " + " | ".join(f"{fusion}, {split}" for fusion, split in KINDS) + " |",
        "|---|" + "---:|" * len(KINDS),
    ]
    for name, result in results.items():
        cells = (" / ".join(f"{flops / 1e9:.3f}" for flops in result["costs"][f"{f} {s}"]) for f, s in KINDS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "## Stages left as they were", ""]
    lines += [f"- {name}, {left}" for name, result in results.items() for left in result["left"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
