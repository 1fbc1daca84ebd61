"""Cards: what each model is, what it costs, and which weights there are of it."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

import torch

from crossstage.analysis.cost import count_flops
from crossstage.models.registry import REGISTRY, Task, default_spec, find
from crossstage.models.spec import Provenance
from crossstage.weights.model_file import read_spec
from crossstage.weights.shipped import PRETRAINED


@dataclass(frozen=True)
class ModelCard:
    """What :func:`model_info` tells of a model.

    Attributes:
        name: Name, with its tag if weights were asked for.
        task: What it does.
        summary: What it is, in a line.
        source: Paper or release that it follows.
        input_size: Height and width that the figures refer to, in pixels.
        num_classes: Classes of the head.
        parameters: Learned values, running statistics of batch norm excluded.
        weights_only: Those of convolutions and linear layers alone, without norms and biases: what CSPNet's tables call
            parameters.
        bflops: Billions of floating-point operations of one image, two for each multiply-add of a convolution or
            linear layer, nothing else.
        weights: Tagged names that :func:`load` takes.
        reconstruction: Only its size and cost were published; the structure is ours.
        class_names: Names by class id, if weights were asked for.
        provenance: Where the weights come from, if they were asked for.
    """

    name: str
    task: Task
    summary: str
    source: str
    input_size: tuple[int, int]
    num_classes: int
    parameters: int
    weights_only: int
    bflops: float
    weights: tuple[str, ...]
    reconstruction: bool = False
    class_names: tuple[str, ...] = ()
    provenance: Provenance | None = None


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of the models, sorted.

    Args:
        pattern: Shell-style wildcards, such as ``"csp*"``.
        pretrained: List the names of weights, ``<model>.<tag>``, instead.
    """
    return sorted(fnmatch.filter(PRETRAINED if pretrained else REGISTRY, pattern))


def model_info(name: str) -> ModelCard:
    """Tell what a model is, what it costs and where its weights come from.

    Args:
        name: A model's name, with or without a tag.

    Raises:
        ConfigError: The name is unknown.
    """
    base = name.split(".", 1)[0]
    entry = find(base if name in PRETRAINED else name)
    stored = read_spec(PRETRAINED[name].path) if name in PRETRAINED else None
    with torch.device("meta"):
        model = entry.build(stored or default_spec(base, entry.num_classes)).eval()
    return ModelCard(
        name=name,
        task=entry.task,
        summary=entry.summary,
        source=entry.source,
        input_size=entry.input_size,
        num_classes=stored.num_classes if stored else entry.num_classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights_only=sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1),
        bflops=count_flops(model, (1, 3, *entry.input_size)) / 1e9,
        weights=tuple(list_models(f"{base}.*", pretrained=True)),
        reconstruction=entry.reconstruction,
        class_names=stored.class_names if stored else (),
        provenance=stored.provenance if stored else None,
    )
