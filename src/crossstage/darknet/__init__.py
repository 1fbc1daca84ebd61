"""Darknet's formats: networks from ``.cfg`` files, parameters from and to ``.weights`` files."""

from crossstage.darknet.loading import check_weights, describe, load, save_weights
from crossstage.darknet.network import DarknetNetwork, LayerRow
from crossstage.darknet.weights import WeightsReport

__all__ = ["DarknetNetwork", "LayerRow", "WeightsReport", "check_weights", "describe", "load", "save_weights"]
