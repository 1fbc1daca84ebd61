"""Building blocks of networks: convolutions, stages, residual, dense and aggregation blocks, attention, fusing."""

from crossstage.nn.activation import ACTIVATIONS, activation
from crossstage.nn.attention import (
    Attend,
    Attention,
    ContextAttention,
    EffectiveSqueezeExcite,
    PointwiseAttention,
    SpatialAttention,
    SqueezeExcite,
)
from crossstage.nn.conv import BN_EPS, ConvNormAct, ConvStyle, NormActConv, spatial_conv
from crossstage.nn.deconv import DeconvNormAct
from crossstage.nn.deform import DeformConv, DeformConvNormAct
from crossstage.nn.dense import BottleneckDenseLayer, DenseBlock, DenseLayer, ElasticDenseLayer, TwoWayDenseLayer
from crossstage.nn.osa import ConvPair, OneShotAggregation, SeparableConv
from crossstage.nn.partial import Channels, Copy, CrossStage, Partial, Split, project_split, slice_split, transition
from crossstage.nn.pooling import Maxout, SpatialPyramidPool, SPPBottleneck
from crossstage.nn.residual import Elastic, PartialShortcut, Residual
from crossstage.nn.shared import SharedConvNormAct

__all__ = [
    "ACTIVATIONS",
    "BN_EPS",
    "Attend",
    "Attention",
    "BottleneckDenseLayer",
    "Channels",
    "ContextAttention",
    "ConvNormAct",
    "ConvPair",
    "ConvStyle",
    "Copy",
    "CrossStage",
    "DeconvNormAct",
    "DeformConv",
    "DeformConvNormAct",
    "DenseBlock",
    "DenseLayer",
    "EffectiveSqueezeExcite",
    "Elastic",
    "ElasticDenseLayer",
    "Maxout",
    "NormActConv",
    "OneShotAggregation",
    "Partial",
    "PartialShortcut",
    "PointwiseAttention",
    "Residual",
    "SPPBottleneck",
    "SeparableConv",
    "SharedConvNormAct",
    "SpatialAttention",
    "SpatialPyramidPool",
    "Split",
    "SqueezeExcite",
    "TwoWayDenseLayer",
    "activation",
    "project_split",
    "slice_split",
    "spatial_conv",
    "transition",
]
