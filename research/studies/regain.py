"""What fine-tuning regains of a classifier that became partial: EfficientNet-Lite0 from its ImageNet weights.

    python -m research.studies.regain DATA > docs/results/regain.md

DATA is the folder of imagenette128. The plain network is fine-tuned first. Its cross stage partial variants, made by
``to_partial`` with the weights carried over, are measured as they come out and after the same fine-tuning again; a last
one is trained alike from random weights. Networks and images are the same in every row; results lie in
``docs/results/regain/`` as they come, and are not computed again.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage import Partial, to_partial
from crossstage.analysis import count_flops
from crossstage.data.find import find_data
from crossstage.data.records import ClassificationData
from crossstage.files import write_text
from crossstage.inference.images import load_image
from crossstage.inference.preprocessing import prepare
from crossstage.nn.init import initialise
from crossstage.structures import Preprocessing
from crossstage.weights.starting import start_model
from research.bench.timing import machine
from research.places import RESULTS

RAW = RESULTS / "regain"
START = "efficientnet_lite0.in1k"
GAMMAS = (0.25, 0.5, 0.75)
SIDE, PAD = 96, 12  # pixels of the input, and by how many a training image may be shifted
EPOCHS, BATCH, RATE, WARM = 3, 32, 1e-3, 0.1
TRAIN, VAL = 1000, 500


def main() -> None:
    """Compute what is missing, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/regain"), help="where the fine-tuned network is kept")
    chosen = parser.parse_args()
    study = Study(chosen.data, chosen.work)
    for name in study.names:
        path = RAW / f"{name}.json"
        if not path.exists():
            write_text(path, json.dumps(study.row(name), indent=1) + "\n")
            print(f"{name}: {path.read_text()}", file=sys.stderr, flush=True)
    print(page({name: json.loads((RAW / f"{name}.json").read_text()) for name in study.names}))


class Study:
    """The images, and the plain network once it is fine-tuned."""

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.kept = data, work / "plain.pt"
        self.names = ["plain", *(f"gamma{gamma:g}" for gamma in GAMMAS), "random0.5"]
        started = start_model(START, [str(number) for number in range(10)], imgsz=SIDE)
        assert started.spec.preprocessing
        self.preprocessing = started.spec.preprocessing
        self.plain: nn.Module = started.model
        self.images: dict[str, tuple[Tensor, Tensor]] = {}

    def row(self, name: str) -> dict[str, Any]:
        """Return the figures of a network."""
        if not self.images:
            self.images = read(self.data, self.preprocessing)
        if name == "plain":
            model, before = self.plain, None  # its head is not trained yet
        else:
            self.plain.load_state_dict(torch.load(self.kept, weights_only=True))
            gamma = float(name.removeprefix("gamma").removeprefix("random"))
            model, _ = to_partial(self.plain, Partial(gamma), example_input=torch.zeros(1, 3, SIDE, SIDE))
            if name.startswith("random"):
                initialise(model, "fan_out")
            before = self.accuracy(model)
        self.train(model)
        if name == "plain":
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), self.kept)
        return {
            "before": before,
            "after": self.accuracy(model),
            "flops": count_flops(model, (1, 3, 224, 224)),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "machine": machine(),
        }

    def train(self, model: nn.Module) -> None:
        """Fine-tune in place: AdamW, a linear warm-up and a cosine, shifts and flips."""
        torch.manual_seed(0)
        images, labels = self.images["train"]
        model.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
        total = EPOCHS * (len(labels) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total, pct_start=WARM)
        for _ in range(EPOCHS):
            for chosen in batches(len(labels)):
                logits = model(self.preprocessing.normalise(varied(images[chosen])))
                loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Return the share of val images whose class is found."""
        images, labels = self.images["val"]
        network = copy.deepcopy(model).eval()
        found = [network(self.preprocessing.normalise(part)).argmax(1) for part in images.split(BATCH)]
        return float((torch.cat(found) == labels).float().mean())


def read(data: Path, preprocessing: Preprocessing) -> dict[str, tuple[Tensor, Tensor]]:
    """Read images of both parts, as many of each class: those to train on with a margin, within which they shift."""
    (archive,) = data.glob("*.tar.gz")
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        source = find_data(folder)
        for part, count, margin in (("train", TRAIN, PAD), ("val", VAL, 0)):
            listed = source.read(part)
            assert isinstance(listed, ClassificationData)
            step = len(listed.labels) // count
            chosen = range(0, step * count, step)
            sized = preprocessing.at(SIDE + margin)
            images = [prepare(load_image(listed.images[number]), sized)[0] for number in chosen]
            found[part] = torch.stack(images), torch.from_numpy(listed.labels[list(chosen)])
    return found


def batches(count: int) -> Iterator[Tensor]:
    """Yield the positions of an epoch's batches; a last, smaller one is left out."""
    order = torch.randperm(count)
    return iter(order[: count // BATCH * BATCH].split(BATCH))


def varied(images: Tensor) -> Tensor:
    """Shift a batch's images, and flip half of them."""
    top, left = (int(torch.randint(PAD + 1, ())) for _ in range(2))
    images = images[..., top : top + SIDE, left : left + SIDE]
    flips = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(flips, images.flip(3), images).contiguous(memory_format=torch.channels_last)


def page(rows: dict[str, dict[str, Any]]) -> str:
    """Return the page of all results."""
    plain = rows["plain"]
    lines = [
        "# What fine-tuning regains of a network that became partial",
        "",
        f"Written by `python -m research.studies.regain DATA`, {plain['machine']}.",
        "Raw results are in [regain](regain).",
        "",
        f"EfficientNet-Lite0 from `{START}` on {TRAIN:,} images of imagenette at {SIDE} pixels:",
        f"{EPOCHS} epochs of AdamW (rate {RATE:g}, {BATCH} images a step), one seed; accuracy on {VAL} val images in",
        "percent. Partial networks are made by `to_partial` of the fine-tuned plain one and fine-tuned alike; the last",
        "row draws all weights anew.",
        "",
        "| network | GFLOPs at 224 | parameters M | accuracy before | after fine-tuning |",
        "|---|---:|---:|---:|---:|",
    ]
    labels = {"plain": "plain"} | {f"gamma{gamma:g}": f"γ {gamma:g}, weights carried over" for gamma in GAMMAS}
    labels["random0.5"] = "γ 0.5, weights drawn anew"
    for name, row in rows.items():
        cells = [labels[name], f"{row['flops'] / 1e9:.3f}", f"{row['parameters'] / 1e6:.2f}"]
        cells += ["" if name == "plain" else f"{100 * row['before']:.1f}", f"{100 * row['after']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
