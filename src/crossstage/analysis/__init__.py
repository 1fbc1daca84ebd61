"""What a network costs, operation by operation; how gradients flow through it; what its layers weigh."""

from crossstage.analysis.cost import count_flops, operations
from crossstage.analysis.formulas import dense_block_cio, partial_dense_block_cio
from crossstage.analysis.layer import Layer, LayerKind, StoragePrecision
from crossstage.analysis.paths import GradientPaths, gradient_paths
from crossstage.analysis.profile import Bottleneck, Profile, profile_module
from crossstage.analysis.redundancy import (
    Similarity,
    Tap,
    gradient_similarity,
    linear_cka,
    plot_similarity,
    stage_taps,
    subspace_overlap,
)
from crossstage.analysis.roof import Roof
from crossstage.analysis.weights import WeightNorms, plot_weight_norms, weight_norms

__all__ = [
    "Bottleneck",
    "GradientPaths",
    "Layer",
    "LayerKind",
    "Profile",
    "Roof",
    "Similarity",
    "StoragePrecision",
    "Tap",
    "WeightNorms",
    "count_flops",
    "dense_block_cio",
    "gradient_paths",
    "gradient_similarity",
    "linear_cka",
    "operations",
    "partial_dense_block_cio",
    "plot_similarity",
    "plot_weight_norms",
    "profile_module",
    "stage_taps",
    "subspace_overlap",
    "weight_norms",
]
