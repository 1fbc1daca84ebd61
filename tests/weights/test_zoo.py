"""Names of 0.1.0: sources that its ``crossstage convert`` wrote still run, with its meaning of ``timm:``."""

import runpy

import pytest
import torch

from crossstage import zoo

pytest.importorskip("timm", reason="needs the extra crossstage[timm]")

SOURCE = '''\
"""own.py:Net as a cross stage partial network: gamma 0.5, fusion both, split project."""

from pathlib import Path
from typing import Any

from torch import nn
from crossstage.convert import narrow
from crossstage.nn import Channels, ConvNormAct, ConvStyle, CrossStage, Split
from crossstage.zoo import resolve


def plain() -> nn.Module:
    """The plain network, with weights drawn anew."""
    return resolve(f"{Path(__file__).parent}/own/net.py:Net", "cpu").module


def build() -> nn.Module:
    network = plain()
    narrow(network[0], 4, 4)
    return network
'''


def test_a_converted_source_of_the_version_before_runs(tmp_path):
    (tmp_path / "own").mkdir()
    net = "from torch import nn\n\nNet = lambda: nn.Sequential(nn.Conv2d(8, 8, 1))\n"
    (tmp_path / "own" / "net.py").write_text(net)
    (tmp_path / "partial.py").write_text(SOURCE)
    network = runpy.run_path(str(tmp_path / "partial.py"))["build"]()
    assert [tuple(tensor.shape) for tensor in network.parameters()] == [(4, 4, 1, 1), (4,)]


def test_a_library_meant_its_own_network():
    theirs = zoo.resolve("timm:resnet26d.bt_in1k")
    assert type(theirs.module).__module__.startswith("timm.")
    assert type(zoo.resolve("torchvision:resnet18").module).__module__.startswith("torchvision.")
    assert zoo.resolve("csppeleenet").input_shape == (3, 224, 224)


def test_the_other_names_lead_to_their_homes():
    for names in zoo._HOMES.values():
        for name in names:
            assert getattr(zoo, name) is not None
    from crossstage.zoo import create_model, load_darknet  # noqa: F401

    assert isinstance(create_model("resnet18", 2), torch.nn.Module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zoo.nothing
