"""The structural claims: each is a function that counts our values, on tensors without data.

A function returns numbers by the names under which the ledger holds the published ones, or pairs of both where the
published ones stand in a table of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from research.claims import blocks
from research.claims.detectors import TABLE_2, TABLE_4, DetectorRow, largest, traffic
from research.claims.detectors import counted as counted_detector
from research.claims.ledger import Claim, Found, Value
from research.claims.networks import TABLE_1, TABLE_3, NetworkRow, counted

ROWS: dict[str, NetworkRow] = {row.model: row for row in (*TABLE_1, *TABLE_3)}
PAIRS = {  # the plain network and its cross stage partial form, of tables 1 and 3
    "PeleeNet": "CSPPeleeNet",
    "MobileNet-v2 (README)": "CSPMobileNet-v2 (README)",
    "ResNet-10": "CSPResNet-10",
    "ResNet-50 (README)": "CSPResNet-50 (README)",
    "ResNeXt-50": "CSPResNeXt-50",
    "DarkNet-53 (README)": "CSPDarkNet-53 (README)",
    "DenseNet-201-Elastic": "CSPDenseNet-201-Elastic",
}


def _change(new: float | None, old: float | None) -> float:
    """In percent."""
    assert new is not None and old is not None
    return 100 * (new / old - 1)


def _cost(csp: str, plain: str) -> Value:
    """Change of BFLOPs."""
    new, old = ROWS[csp], ROWS[plain]
    return Value(_change(new.bflops, old.bflops), _change(counted(new)[0], counted(old)[0]))


def _weights(csp: str, plain: str) -> Value:
    """Change of parameters."""
    new, old = ROWS[csp], ROWS[plain]
    return Value(_change(new.weights, old.weights), _change(counted(new)[1], counted(old)[1]))


def cheaper(csp: str, plain: str = "PeleeNet") -> Found:
    """Change of a network's cost against a plain one's."""
    return {"BFLOPs": _cost(csp, plain)}


def csp_resnet10() -> Found:
    """Change of cost and size."""
    names = ("CSPResNet-10", "ResNet-10")
    return {"BFLOPs": _cost(*names), "parameters": _weights(*names)}


def gamma_monotone() -> Found:
    """What a step of a quarter in γ adds to the cost, for each fusion."""
    found: dict[str, Value] = {}
    for fusion in ("fusion first", "fusion last", "CSPPeleeNet"):
        for smaller, larger in ((0.25, 0.5), (0.5, 0.75)):
            names = (f"{fusion}, γ {larger}", f"{fusion}, γ {smaller}")
            found[f"{fusion}, γ {smaller} to {larger}"] = _cost(*names)
    return found


def at_least_10() -> Found:
    """The cost that each network loses."""
    return {csp.removesuffix(" (README)"): -_ours(_cost(csp, plain)) for plain, csp in PAIRS.items()}


def _ours(value: Value) -> float:
    assert isinstance(value.ours, float)
    return value.ours


def reference_networks() -> Found:
    """Cost and size of the networks called "Reference"."""
    found: dict[str, Value] = {}
    for row in TABLE_3:
        if row.basis == "reconstruction" and "Reference" in row.model:
            name, (bflops, weights) = row.model.removesuffix(" (README)"), counted(row)
            assert row.bflops is not None and row.weights is not None
            found |= {f"{name}, BFLOPs": Value(row.bflops, bflops), f"{name}, M weights": Value(row.weights, weights)}
    return found


def bottleneck_halved() -> Found:
    """The dearest convolution of CSPPeleeNet-EFM against two others of figure 7."""
    efm = largest("csppeleenet_efm").flops
    return {
        "against PeleeNet's transitions": _change(efm, largest("peleenet_yolo", "backbone").flops),
        "against PeleeNet-YOLO": _change(efm, largest("peleenet_yolo").flops),
    }


def pyramid_memory() -> Found:
    """What enters the pooling on the way to a coarser level, with Maxout against without."""
    return {"handed down to coarser levels": _change(traffic(True)["handed down"], traffic(False)["handed down"])}


def detectors(rows: Sequence[DetectorRow], *, weights: bool) -> Found:
    """BFLOPs of a table's detectors, and their weights in M."""
    found: dict[str, Value] = {}
    for row in rows:
        bflops, size, _ = counted_detector(row)
        name = f"{row.model}, {row.size}" if weights else row.model
        found[f"{name}, BFLOPs" if weights else name] = Value(row.bflops, bflops)
        if weights and row.weights is not None:
            found[f"{name}, M weights"] = Value(row.weights, size)
    return found


STRUCTURAL: dict[str, Callable[[], Found]] = {
    "csp-peleenet-flops": partial(cheaper, "CSPPeleeNet"),
    "csp-fusion-last-flops": partial(cheaper, "fusion last, γ 0.5"),
    "csp-fusion-first-flops": partial(cheaper, "fusion first, γ 0.5"),
    "csp-gamma25-flops": partial(cheaper, "CSPPeleeNet, γ 0.25"),
    "fusion-last-gamma25-flops": partial(cheaper, "fusion last, γ 0.25"),
    "gamma-monotone": gamma_monotone,
    "peleenext": partial(cheaper, "PeleeNeXt (grouped)"),
    "speleenet": partial(cheaper, "SPeleeNet (sparse)"),
    "csp-resnet10": csp_resnet10,
    "csp-resnet50": partial(cheaper, "CSPResNet-50 (README)", "ResNet-50 (README)"),
    "csp-resnext50": partial(cheaper, "CSPResNeXt-50", "ResNeXt-50"),
    "csp-darknet53": partial(cheaper, "CSPDarkNet-53 (README)", "DarkNet-53 (README)"),
    "csp-densenet201-elastic": partial(cheaper, "CSPDenseNet-201-Elastic", "DenseNet-201-Elastic"),
    "csp-at-least-10": at_least_10,
    "ref-nets": reference_networks,
    "bottleneck-halved": bottleneck_halved,
    "pyramid-memory": pyramid_memory,
    "cio-formula": blocks.cio,
    "traffic-half": blocks.traffic_half,
    "gradient-paths": blocks.split_paths,
    "no-bottleneck": blocks.no_bottleneck,
    "efm-table2": partial(detectors, TABLE_2, weights=False),
    "detectors-table4": partial(detectors, TABLE_4, weights=True),
    "osa-mac-bound": blocks.mac_bound,
    "osa-12": partial(blocks.against_densenet40, "osanet40_12x20"),
    "osa-5x43": partial(blocks.against_densenet40, "osanet40_5x43"),
    "osa-bottleneck": blocks.osa_bottleneck,
    "vovnet-maskrcnn": blocks.vovnet39_and_resnet50,
    "vovnetv2-cost": blocks.attention_and_identity,
}


def rerun(claim: Claim) -> Claim:
    """A structural claim with our values counted again."""
    return claim.measured(STRUCTURAL[claim.id]())
