"""What a step takes is measured: more images take more, and what does not fit is not chosen."""

import torch
from torch import nn

from crossstage.training.batch import MEASURED, OVERHEAD, StepMemory, measured


def test_on_a_cpu_what_is_kept_for_the_backward_pass_is_counted():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Sigmoid())
    steps = {images: lambda n=images: model(torch.rand(n, 3, 8, 8)).sum().backward() for images in MEASURED}
    memory = measured(steps, model, torch.device("cpu"), copies=2, enlarged=1.0)
    weights, kept = 4 * 3 * 4, 4 * 8 * 8 * (3 + 4)  # bytes: the input of the convolution, the output of the sigmoid
    assert memory.fixed == 3 * weights
    assert memory.image == OVERHEAD * kept
    assert memory.free > 0


def test_a_pass_fits_into_its_share_of_what_is_free():
    memory = StepMemory(fixed=100.0, image=10.0, free=500.0)
    assert memory.fits(30) and not memory.fits(31)
