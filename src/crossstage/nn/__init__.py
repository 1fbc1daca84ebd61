"""Building blocks. Nothing here knows of networks."""

from crossstage.nn.activation import ACTIVATIONS, activation
from crossstage.nn.conv import BN_EPS, ConvNormAct
from crossstage.nn.osa import ConvPair
from crossstage.nn.partial import CrossStage, Partial, ProjectSplit, SliceSplit
from crossstage.nn.residual import DarknetBlock

__all__ = [
    "ACTIVATIONS",
    "BN_EPS",
    "ConvNormAct",
    "ConvPair",
    "CrossStage",
    "DarknetBlock",
    "Partial",
    "ProjectSplit",
    "SliceSplit",
    "activation",
]
