"""How much memory a run takes: measured in a fresh process, as everything else that was loaded would count as well."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

PASSES = 3
STATUS = Path("/proc/self/status")


def peak_mib(source: str | Path, way: str, size: int, threads: int) -> float | None:
    """Return the peak of resident memory while a model is opened and run, above what its process had before, in MiB.

    Args:
        source: A model's name or file; an exported file's path for a way that runs one.
        way: One of :func:`~crossstage.deploy.benchmark.ways.ways`, or the model and the runtime of one of its peers.
        size: Side of the input in pixels.
        threads: Number of threads of the runtime.

    Returns:
        None where the system does not tell (Linux does), or the run failed.
    """
    if not STATUS.is_file():
        return None
    command = [sys.executable, "-W", "ignore", "-m", "crossstage.deploy.benchmark.memory", str(source), way, str(size)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([*command, str(threads)], capture_output=True, text=True, check=False, env=environment)
    words = done.stdout.split()
    return float(words[-1]) if done.returncode == 0 and words else None


def _mib(key: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print the peak of one run: what :func:`peak_mib` starts."""
    import torch

    from crossstage.deploy.backends import BACKENDS
    from crossstage.deploy.benchmark.networks import named_model
    from crossstage.deploy.benchmark.peers import peers_of
    from crossstage.deploy.benchmark.running import open_way
    from crossstage.deploy.benchmark.ways import ways
    from crossstage.models.registry import Model

    source, way, size, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    images = torch.rand(1, 3, size, size)
    known = ways().get(way)
    if known and known.exported:
        importlib.import_module(BACKENDS[known.backend].module)
        what: Model | Path = Path(source)
    else:
        what = named_model(source)
    if known:
        start = partial(open_way, known, what, threads)
    else:
        assert not isinstance(what, Path)
        start = next(peer.open for peer in peers_of(source, what, size, threads) if peer.label == way)
    before = _mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    with torch.inference_mode():
        run = start()
        for _ in range(PASSES):
            run(images)
    print(_mib("VmHWM") - before)


if __name__ == "__main__":
    main()
