"""Parameters and operations of published networks, and the networks that only Darknet's old shortcut can run."""

import pytest
import torch

from crossstage.darknet import DarknetNetwork, describe
from crossstage.darknet.cfg import parse_cfg
from tests.darknet.nets import (
    conv,
    cspdarknet53,
    cspresnet50,
    cspresnext50,
    darknet53,
    load_text,
    maxpool,
    net,
    resnet10,
    resnet50,
    resnet50_in_progress,
    route,
    section,
    shortcut,
    yolov3_tiny,
    yolov3_tiny_prn,
    yolov4_tiny,
)


@pytest.mark.parametrize(
    ("build", "conv_bflops", "all_bflops", "parameters"),
    [  # Darknet's own tables at the networks' published input sizes
        (yolov4_tiny, 6.908, 6.910, 6.057e6),
        (yolov3_tiny, 5.565, 5.571, 8.852e6),
        (yolov3_tiny_prn, 3.461, 3.467, 4.935e6),
        (darknet53, 18.570, None, 41.61e6),
        (cspdarknet53, 13.067, None, 27.64e6),
        (cspresnet50, 8.967, None, 21.61e6),
        (cspresnext50, 7.929, None, 20.56e6),
        (resnet50, 9.999, None, 22.78e6),
        (resnet50_in_progress, 9.741, None, 22.78e6),
        (resnet10, 2.272, None, 5.245e6),
    ],
)
def test_table_equals_the_published_cost(build, conv_bflops, all_bflops, parameters):
    with torch.device("meta"):
        network = DarknetNetwork(parse_cfg(build()))
    rows = network.table()
    assert sum(row.bflops for row in rows if row.kind == "convolutional") == pytest.approx(conv_bflops, abs=6e-4)
    if all_bflops:
        assert sum(row.bflops for row in rows) == pytest.approx(all_bflops, abs=6e-4)
    assert sum(row.parameters for row in rows) == pytest.approx(parameters, rel=5e-4)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("build", [resnet10, resnet50])
@torch.no_grad()
def test_networks_of_old_shortcuts_run(build, tmp_path):
    (logits,) = load_text(build(64), tmp_path)(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 1000, 1, 1)
    assert logits.isfinite().all() and logits[0].std() > 0


def test_table_counts_pools_shortcuts_and_nothing_else(tmp_path):
    text = net(8) + conv(4, 3) + maxpool(3, 2) + conv(6) + shortcut(-2) + section("upsample", stride=2) + route(-1, 0)
    (tmp_path / "net.cfg").write_text(text)
    expected = [2 * 4 * 3 * 9 * 64, 9 * 4 * 16, 2 * 6 * 4 * 16, 6 * 16, 0, 0]
    rows = describe(tmp_path / "net.cfg")
    assert [round(row.bflops * 1e9) for row in rows] == expected
    assert [row.parameters for row in rows] == [4 * 3 * 9 + 2 * 4, 0, 4 * 6 + 2 * 6, 0, 0, 0]
    assert [row.index for row in rows] == list(range(6))
    assert [tuple(row.output_shape) for row in rows[-2:]] == [(6, 8, 8), (10, 8, 8)]
