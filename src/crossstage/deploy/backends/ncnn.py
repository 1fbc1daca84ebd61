"""ncnn's files, by pnnx, ncnn's own converter."""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crossstage.deploy.backends.onnx import silent
from crossstage.deploy.backends.sessions import start
from crossstage.deploy.graph import Plan
from crossstage.deploy.header import Header
from crossstage.errors import ConfigError, ExportError
from crossstage.nn.residual import PartialShortcut


def write_ncnn(plan: Plan, path: Path, *, half: bool) -> None:
    """Write ``model.ncnn.param``, ``model.ncnn.bin`` and ``model.json``, which says what the model is.

    Args:
        plan: In float32, as pnnx stores float16 itself, and ncnn computes in what the processor has.
        path: The folder.
        half: Store float16.

    Raises:
        ConfigError: pnnx is not installed.
        ExportError: It fails, or leaves operations that ncnn does not have.
    """
    try:
        from pnnx import EXEC_PATH
    except ImportError:
        raise ConfigError("ncnn's converter is not installed; try: pip install pnnx ncnn") from None
    with tempfile.TemporaryDirectory(prefix="crossstage-") as scratch:
        with silent(), torch.inference_mode():
            torch.jit.save(_traced(plan), f"{scratch}/model.torchscript")
        shape = ",".join(map(str, plan.images.shape))
        byproducts = [f"{kind}={scratch}/{kind}" for kind in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")]
        results = [f"ncnnparam={path}/model.ncnn.param", f"ncnnbin={path}/model.ncnn.bin"]
        command = [EXEC_PATH, f"{scratch}/model.torchscript", f"inputshape=[{shape}]", f"fp16={int(half)}"]
        done = subprocess.run([*command, *results, *byproducts], capture_output=True, text=True, check=False)
    param = path / "model.ncnn.param"
    if done.returncode or not param.is_file():
        raise ExportError(_failure(plan, done))
    # ncnn's reader knows no infinity, with which Maxout fills its last group: the lowest float32 loses as surely.
    param.write_text(param.read_text().replace("=-inf", f"={torch.finfo(torch.float32).min:.6e}"))
    if foreign := sorted(kind for kind in _kinds(param) if "." in kind or "::" in kind):  # ncnn's own have plain names
        raise ExportError(f"{plan.header.name} cannot be written as ncnn, which has no {' or '.join(foreign)}")
    outputs = [f"out{index}" for index in range(len(plan.header.output_names))]
    content = json.loads(plan.header.to_json()) | {"inputs": ["in0"], "outputs_in_order": outputs}
    (path / "model.json").write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def _traced(plan: Plan) -> Any:
    """TorchScript as pnnx reads it.

    Sizes are constants in it, as pnnx crashes where a map is enlarged to the size of another; and every n-th pixel is
    the maximum of a window of one pixel, as ncnn has slices without a step alone.
    """
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


def _failure(plan: Plan, done: subprocess.CompletedProcess[str]) -> str:
    told = (
        f"crashed with signal {-done.returncode}"
        if done.returncode < 0
        else (done.stderr or done.stdout).strip()[-300:]
    )
    return f"{plan.header.name} cannot be written as ncnn: its converter, pnnx, {told}"


def _kinds(param: Path) -> set[str]:
    """Kinds of the layers of a ``.param`` file, which has a line for each after two lines of numbers."""
    return {line.split()[0] for line in param.read_text().splitlines()[2:] if line.strip()}


def run_ncnn(path: Path, header: Header, images: Tensor) -> list[np.ndarray]:
    """What ncnn computes of one image.

    Raises:
        ConfigError: ncnn is not installed.
        ExportError: It cannot load or run the file.
    """
    return list(start(path / "model.ncnn.param", "ncnn", header.output_names)(images.numpy()))
