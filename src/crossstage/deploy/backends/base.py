"""The contract of a backend, and how to add one.

A backend is something that models are taken to: it writes files, runs files, or both. Each lies in one file of this
room, which ends in a table ``BACKENDS`` with one record, a :class:`Backend`. The rest of the package knows the table
and no backend's name: the formats of ``crossstage export``, the choices of ``--runtime`` and of ``benchmark
--runtimes``, which files ``predict`` and ``val`` open and how, the candidates of ``--runtime auto``, the cache of
exported files, the package to install that a message names, and the tables of the documentation.

To add a backend to the package, put a file into ``deploy/backends/``. To add one from a program, put a record into the
table before the first model is opened::

    from crossstage.deploy.backends import BACKENDS
    from crossstage.deploy.backends.base import Backend, FileFormat, Runtime

    def write(recipe, path):
        torch.export.save(recipe.plan.record(), path, extra_files={"crossstage": recipe.plan.header.to_json()})
        return recipe.plan.header

    def read_header(path):
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("crossstage"))).decode()

    def start(path, outputs, threads, precision, streams):
        module = torch.export.load(path).module()
        return lambda images: [output.numpy(force=True) for output in module(torch.from_numpy(images))]

    BACKENDS["toy"] = Backend(
        label="Toy",
        module="torch",
        install="torch",
        preference=100,
        format=FileFormat(suffix=".toy", options=frozenset({"decode"}), write=write, read_header=read_header),
        runtime=Runtime(reads=(".toy",), start=start, format="toy"),
    )

Three rules:

- The table is imported to show a help text. A backend's file therefore imports torch, numpy and its own package inside
  of its functions. A package that is missing is no concern of theirs: ``ImportError`` becomes a message that names
  ``install``.
- What is written carries its header, ``recipe.plan.header.to_json()``, where ``read_header`` finds it without loading
  the graph. Files come from anywhere: a reader takes no more memory than :data:`MAX_HEADER_BYTES` of text need, and
  raises ``ValueError`` or ``EOFError`` for what it cannot read.
- Every file is run once when it is written and compared with PyTorch, by ``check`` or by the first installed runtime
  that reads it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from crossstage.deploy.graph import ExportPlan
    from crossstage.deploy.header import ExportHeader
    from crossstage.ops.nms import NMS

    Floats = NDArray[np.float32]
    Session = Callable[[Floats], list[Floats]]

KEY = "crossstage"
"""The name under which a file carries its header."""

MAX_HEADER_BYTES = 1 << 20  # a thousand class names are 20 KiB

Arithmetic = Literal["fp32", "bf16"]
"""What a runtime computes in, whatever it stores: float32 or bfloat16."""

ExportOption = Literal["dynamic", "half", "int8", "decode", "nms"]
"""What a format may be able to do: any number of images of any size; store float16; store int8, scaled by images; give
boxes and scores in place of raw tensors; suppress overlapping boxes inside the graph."""

ALL_OPTIONS: frozenset[ExportOption] = frozenset({"dynamic", "half", "int8", "decode", "nms"})


@dataclass(frozen=True)
class Recipe:
    """What a format is to write.

    Attributes:
        plan: The graph to record, an input to record it with, and the header.
        half: Whether to store float16. The plan's graph computes in it already if the format is ``half_inside``.
        calibration: Inputs ``(1, 3, H, W)`` to quantise to int8 by; empty for floats.
        nms: The suppression to add behind the graph's boxes and scores; None for none.
        in_float: Names of layers that stay in float where others become int8, of the format's ``layers``.
    """

    plan: ExportPlan
    half: bool = False
    calibration: Sequence[Tensor] = ()
    nms: NMS | None = None
    in_float: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """What a backend writes.

    Attributes:
        suffix: How the name of the file or folder ends.
        also: Other endings that a file may be given.
        options: The options of ``crossstage export`` that the format has.
        write: Writes a recipe to a path that does not exist yet, or into an empty folder, and returns the header that
            the file carries. Any exception becomes an :class:`~crossstage.errors.ExportError`.
        read_header: Reads the JSON text of the header from the file that holds the graph, or from what lies beside it;
            returns None if there is none. None for a format whose files say nothing of the model.
        graph: Name of the file that holds the graph inside of the format's folder; empty if the format is one file.
        beside: Suffixes of the files that are written beside the format's own.
        check: Runs what was written: from path, header and input to outputs. None has the first installed runtime that
            reads the file do so.
        half_inside: Whether half precision is the recorded graph's, rather than the writer's.
        fused: Whether the model is recorded fused. Converters that look for patterns of their own know it as it is.
        note: A remark about the file for people, such as a version of the format; may be empty.
        second_stage: Whether files hold the second stage of a detector, whose boxes differ in number from image to
            image.
        layers: Names the layers of a recipe that become int8, those first that lose most by it. None for a format
            without int8, or where all layers become so.
    """

    suffix: str
    also: tuple[str, ...] = ()
    options: frozenset[ExportOption]
    write: Callable[[Recipe, Path], ExportHeader]
    read_header: Callable[[Path], str | None] | None = None
    graph: str = ""
    beside: tuple[str, ...] = ()
    check: Callable[[Path, ExportHeader, Tensor], list[Floats]] | None = None
    half_inside: bool = True
    fused: bool = True
    note: str = ""
    second_stage: bool = False
    layers: Callable[[Recipe], list[str]] | None = None

    @property
    def graph_suffix(self) -> str:
        """The suffix of the file that holds the graph."""
        return Path(self.graph).suffix if self.graph else self.suffix

    def graph_file(self, path: Path) -> Path:
        """Return the file that holds the graph of what was written to a path."""
        return path / self.graph if self.graph else path


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a backend runs files.

    Attributes:
        reads: Suffixes of the files that it runs.
        start: Loads a file. It is given the path, the names of the outputs in order, the number of threads of a pass
            (None leaves it to the runtime), the arithmetic, and the number of threads that will call the session at
            once. It returns a session: a function from float32 images ``(N, 3, H, W)`` to the list of outputs.
        format: The format in which models are written to be run by this runtime.
        int8_format: The same for models that are quantised to int8; empty if it runs none.
        precisions: What it can compute in.
        winograd: Whether it computes 3x3 convolutions in float with fewer multiplications than they are defined by, so
            that its rate may exceed what the processor's multipliers could do.
        second_stage: Whether it runs files that hold the second stage of a detector.
    """

    reads: tuple[str, ...]
    start: Callable[[Path, Sequence[str], int | None, Arithmetic, int], Session]
    format: str
    int8_format: str = ""
    precisions: tuple[Arithmetic, ...] = ("fp32",)
    winograd: bool = False
    second_stage: bool = False


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A record of the table ``BACKENDS``, whose key is the backend's name on the command line.

    Attributes:
        label: What people call it.
        module: The module whose presence says that the backend is installed.
        install: What pip is asked for to install it: ``crossstage[...]`` with one of the extras, or a package.
        preference: Backends with lower numbers come first: in lists, and where several read a file.
        distributions: Packages whose versions decide about what it writes and how fast it runs.
        format: What it writes; None if it only runs.
        runtime: How it runs files; None if it only writes them.
        prepare: Makes a copy of a model, itself a module, that computes the same faster in this process: from the
            model, the arithmetic and whether to compile it. None for backends that run files.
    """

    label: str
    module: str
    install: str
    preference: int
    distributions: tuple[str, ...] = ()
    format: FileFormat | None = None
    runtime: Runtime | None = None
    prepare: Callable[[Any, Arithmetic, bool], Any] | None = None

    @property
    def installed(self) -> bool:
        """Whether the backend's module is there."""
        return importlib.util.find_spec(self.module) is not None
