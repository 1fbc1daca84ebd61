"""How many channels a network reads, whatever it does with them before its first convolution."""

import pytest
import torch
from torch import nn

import crossstage
from crossstage.nn.channels import input_channels


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", ["cspdarknet_x_nano", "csppeleenet", "gelan_t"])
def test_ours_say_so(name, channels):
    with torch.device("meta"):
        assert input_channels(crossstage.create_model(name, in_chans=channels)) == channels


def test_of_others_the_first_convolution_does():
    assert input_channels(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 1))) == 4
    assert input_channels(nn.Linear(3, 2)) is None


class Folding(nn.Sequential):
    """A user's network whose stem folds two by two pixels into channels."""

    in_chans = 3


def test_a_users_network_may_say_it_as_timms_do():
    network = Folding(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3, padding=1), nn.ReLU())
    assert input_channels(network) == 3
    assert crossstage.profile(network, 32).parameters == 12 * 8 * 9 + 8


def test_a_network_that_folds_pixels_is_profiled_by_name_and_as_a_module():
    by_name = crossstage.profile("yolox_nano", 64)
    with torch.device("meta"):
        network = crossstage.create_model("yolox_nano")
    assert crossstage.profile(network, 64).macs == by_name.macs > 0
