"""Cards: what each model is, what it costs, and which weights there are of it."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

import torch

from crossstage.analysis.cost import count_flops
from crossstage.models.registry import REGISTRY, TaskName, find
from crossstage.models.spec import Provenance
from crossstage.weights.published import PRETRAINED, weights_of
from crossstage.weights.ref import NAMED, Ref, parse
from crossstage.weights.stored import stored_spec


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model.

    Attributes:
        name: The model's name, with its tag if weights were asked for.
        task: What it does.
        summary: What it is, in a line.
        source: Paper or release that it follows.
        input_size: Height and width that the figures refer to, in pixels; of weights, those that they were trained for.
        num_classes: Number of classes of the head.
        parameters: Number of learned values, without the running statistics of batch norm.
        weights_only: Number of those in convolutions and linear layers, without norms and biases: what CSPNet's tables
            call parameters.
        bflops: Billions of floating-point operations of one image, two for each multiply-add of a convolution or
            linear layer, nothing else.
        weights: Tagged names that :func:`~crossstage.weights.loading.load` takes, sorted.
        downloads: Those of ``weights`` whose file is not in the package and is fetched when it is first used.
        reconstruction: Only its size and cost were published; the structure is ours.
        class_names: Names by class id, if weights were asked for and their header is at hand.
        provenance: Where the weights come from, under the same conditions.
    """

    name: str
    task: TaskName
    summary: str
    source: str
    input_size: tuple[int, int]
    num_classes: int
    parameters: int
    weights_only: int
    bflops: float
    weights: tuple[str, ...]
    downloads: tuple[str, ...] = ()
    reconstruction: bool = False
    class_names: tuple[str, ...] = ()
    provenance: Provenance | None = None


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """List the names of the models, sorted.

    Args:
        pattern: Shell-style wildcards, such as ``"csp*"``.
        pretrained: List the names of weights, ``<model>.<tag>``, instead. Those that are not in the package are fetched
            when they are first used; :attr:`ModelCard.downloads` says which.
    """
    return sorted(fnmatch.filter(PRETRAINED if pretrained else REGISTRY, pattern))


def model_info(name: str | Path | Ref) -> ModelCard:
    """Describe a model: what it is, what it costs and where its weights come from. Nothing is fetched.

    Args:
        name: A model's name, with or without a tag.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: A file of the package is damaged.
    """
    ref = parse(name, NAMED)
    entry, spec = find(ref.name), stored_spec(ref)
    with torch.device("meta"):
        model = entry.build(spec).eval()
    weights = tuple(sorted(weights_of(ref.name)))
    size = spec.preprocessing.size if ref.kind == "weights" and spec.preprocessing else entry.input_size
    return ModelCard(
        name=ref.text,
        task=entry.task,
        summary=entry.summary,
        source=entry.source,
        input_size=size,
        num_classes=spec.num_classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights_only=sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1),
        bflops=count_flops(model, (1, 3, *size)) / 1e9,
        weights=weights,
        downloads=tuple(name for name in weights if PRETRAINED[name].url),
        reconstruction=entry.reconstruction,
        class_names=spec.class_names if ref.kind == "weights" else (),
        provenance=spec.provenance,
    )
