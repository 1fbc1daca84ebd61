"""ncnn: its files are written by pnnx, its own converter, and run by its own package."""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossstage.deploy.backends.base import MAX_HEADER_BYTES, Arithmetic, Backend, FileFormat, Recipe, Runtime
from crossstage.deploy.backends.shared import silent
from crossstage.errors import ExportError
from crossstage.machine import cores

if TYPE_CHECKING:
    from crossstage.deploy.backends.base import Floats, Session
    from crossstage.deploy.graph import ExportPlan
    from crossstage.deploy.header import ExportHeader

GRAPH = "model.ncnn.param"
HEADER = "model.json"


def write(recipe: Recipe, path: Path) -> ExportHeader:
    """Write ``model.ncnn.param``, ``model.ncnn.bin`` and ``model.json``, which holds the header.

    The plan is in float32: pnnx stores float16 itself, and ncnn computes in what the processor has.

    Raises:
        ExportError: pnnx fails, or leaves operations that ncnn does not have.
    """
    import torch
    from pnnx import EXEC_PATH

    plan = recipe.plan
    with tempfile.TemporaryDirectory(prefix="crossstage-") as scratch:
        traced = io.BytesIO()  # torch's own writer of files ends the process where a disk is full
        with silent(), torch.inference_mode():
            torch.jit.save(_traced(plan), traced)
        Path(scratch, "model.torchscript").write_bytes(traced.getbuffer())
        shape = ",".join(map(str, plan.images.shape))
        byproducts = [f"{kind}={scratch}/{kind}" for kind in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")]
        results = [f"ncnnparam={path / GRAPH}", f"ncnnbin={path}/model.ncnn.bin"]
        command = [EXEC_PATH, f"{scratch}/model.torchscript", f"inputshape=[{shape}]", f"fp16={int(recipe.half)}"]
        done = subprocess.run([*command, *results, *byproducts], capture_output=True, text=True, check=False)
    param = path / GRAPH
    if done.returncode or not param.is_file():
        raise ExportError(f"{plan.header.name} cannot be written as ncnn: its converter, pnnx, {_failure(done)}")
    # ncnn's reader knows no infinity, with which Maxout fills its last group: the lowest float32 loses as surely.
    param.write_text(param.read_text().replace("=-inf", f"={torch.finfo(torch.float32).min:.6e}"))
    if foreign := sorted(kind for kind in _kinds(param) if "." in kind or "::" in kind):  # ncnn's own have plain names
        raise ExportError(f"{plan.header.name} cannot be written as ncnn, which has no {' or '.join(foreign)}")
    outputs = [f"out{index}" for index in range(len(plan.header.output_names))]
    content = json.loads(plan.header.to_json()) | {"inputs": ["in0"], "outputs_in_order": outputs}
    (path / HEADER).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    return plan.header


def _traced(plan: ExportPlan) -> Any:
    """Return TorchScript as pnnx reads it.

    Sizes are constants in it, as pnnx crashes where a map is enlarged to the size of another; and every n-th pixel is
    the maximum of a window of one pixel, as ncnn has slices without a step alone.
    """
    import torch
    from torch import nn

    from crossstage.nn.residual import PartialShortcut

    graph = copy.deepcopy(plan.graph)
    for module in graph.modules():
        for name, child in module.named_children():
            if isinstance(child, PartialShortcut) and child.stride > 1:
                cut = PartialShortcut(child.in_channels, child.out_channels, 1)
                setattr(module, name, nn.Sequential(nn.MaxPool2d(1, child.stride), cut))
    program = torch.export.export(graph, (plan.images,))
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.alias.default:  # of which ncnn knows nothing
            node.replace_all_uses_with(node.all_input_nodes[0])
    return torch.jit.trace(program.module(), (plan.images,), check_trace=False)


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"crashed with signal {-done.returncode}"
    return (done.stderr or done.stdout).strip()[-300:]


def _kinds(param: Path) -> set[str]:
    """Return the kinds of the layers in a ``.param`` file, which has a line for each after two lines of numbers."""
    return {line.split()[0] for line in param.read_text().splitlines()[2:] if line.strip()}


def read_header(path: Path) -> str | None:
    """Return the header that lies beside a ``.param`` file.

    Raises:
        OSError: There is none, or it cannot be read.
        ValueError: It is no text.
    """
    with path.with_name(HEADER).open("rb") as file:
        return file.read(MAX_HEADER_BYTES).decode()


def start(path: Path, outputs: Sequence[str], threads: int | None, precision: Arithmetic, _streams: int) -> Session:
    """Load a file, whose outputs are numbered; see :class:`~crossstage.deploy.backends.base.Runtime`."""
    import numpy as np

    ncnn = _package()
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = precision == "bf16"
    net.opt.num_threads = threads or cores()
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise RuntimeError("it is damaged, or has a layer that this version lacks")

    def run(images: Floats) -> list[Floats]:
        if len(images) != 1:
            raise ValueError(f"it takes one image at a time, not {len(images)}")
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(images[0]))
        results = []
        for index, name in enumerate(outputs):
            failed, output = extractor.extract(f"out{index}")
            if failed:
                raise RuntimeError(f"it has not computed {name}")
            results.append(np.array(output)[None])
        return results

    return run


def _package() -> Any:
    """Import the package so that its threads wait for each other in a loop only for a moment.

    By default they do so for milliseconds, during which a thread may hold the core that the one it waits for needs. The
    OpenMP library that lies in the package reads this variable when it is loaded, and never again.
    """
    name = "GOMP_SPINCOUNT"
    before = os.environ.get(name)
    os.environ[name] = before or "10000"
    try:
        return importlib.import_module("ncnn")  # an import statement's stub lacks all that is used here
    finally:
        if before is None:
            del os.environ[name]


BACKENDS = {
    "ncnn": Backend(
        label="ncnn",
        module="ncnn",
        install="crossstage[ncnn]",
        preference=40,
        distributions=("torch", "ncnn", "pnnx"),
        format=FileFormat(
            suffix="_ncnn",
            options=frozenset({"half", "decode"}),
            write=write,
            read_header=read_header,
            graph=GRAPH,
            half_inside=False,
            fused=False,
        ),
        runtime=Runtime(reads=(".param",), start=start, format="ncnn", precisions=("fp32", "bf16"), winograd=True),
    )
}
