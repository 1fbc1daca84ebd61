"""What operations cost: against torch's own counter and closed formulas."""

from math import prod

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from crossstage.analysis import count_flops, operations
from crossstage.models.published import DETECTORS
from crossstage.weights.loading import create_model
from tests.sweep import kind_of_parts, sweep

# torch's counter does not know torchvision's operator: a convolution's multiply-adds, without those of interpolation.
_DEFORMABLE = {
    torch.ops.torchvision.deform_conv2d: lambda x, weight, *_, out_shape, **__: 2 * prod(weight[1:]) * prod(out_shape)
}


@pytest.mark.parametrize("name", sweep(DETECTORS, kind_of_parts))
def test_the_count_of_a_detectors_operations_is_torchs(name):
    with torch.device("meta"):
        model = create_model(name, norm="none").eval()  # norms count nothing, and are slow on the meta device
        with FlopCounterMode(display=False, custom_mapping=_DEFORMABLE) as counter, torch.no_grad():
            model(torch.empty(1, 3, 64, 64))
    assert count_flops(model, (1, 3, 64, 64)) == counter.get_total_flops()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = torch.cat([y, nn.functional.max_pool2d(y, 3, 1, 1)], dim=1)
        y = nn.functional.interpolate(y, scale_factor=2, mode="nearest")
        return self.fc(nn.functional.avg_pool2d(y, 16).flatten(1))


def test_each_operation_tells_what_it_computes_and_moves():
    with torch.device("meta"):
        model = Small().eval()
    found = [entry for entry in operations(model, (2, 3, 16, 16)) if entry.kind != "other"]
    told = [(entry.name, entry.kind, entry.darknet_flops, entry.weights, entry.read, entry.written) for entry in found]
    assert told == [
        ("conv", "convolution", 2 * 2 * 64 * 8 * 27, 216, 2 * 3 * 256, 2 * 8 * 64),
        ("", "pooling", 9 * 2 * 8 * 64, 0, 2 * 8 * 64, 2 * 8 * 64),
        ("", "concatenation", 0, 0, 2 * 16 * 64, 2 * 16 * 64),
        ("", "upsampling", 0, 0, 2 * 16 * 64, 2 * 16 * 256),
        ("", "pooling", 256 * 2 * 16, 0, 2 * 16 * 256, 2 * 16),
        ("fc", "linear", 2 * 2 * 16 * 5, 80, 2 * 16, 2 * 5),
    ]
    assert found[0].output_shape == (2, 8, 8, 8)
    convolutions = found[0].flops + found[-1].flops
    assert count_flops(model, (2, 3, 16, 16)) == convolutions
    assert count_flops(model, (2, 3, 16, 16), pooling=True) == convolutions + found[1].pooled + found[4].pooled


def test_darknets_totals_are_met_with_its_pooling():
    """What Darknet prints for YOLOv3-tiny and YOLOv3-tiny-PRN at 416."""
    for name, printed in (("yolov3_tiny", 5.571), ("yolov3_tiny_prn", 3.467)):
        with torch.device("meta"):
            model = create_model(name).eval()
        assert round(count_flops(model, (1, 3, 416, 416), pooling=True) / 1e9, 3) == printed
