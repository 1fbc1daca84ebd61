"""What a network costs, operation by operation, and what its layers weigh."""

from crossstage.analysis.cost import count_flops, operations
from crossstage.analysis.layer import Kind, Layer, Precision
from crossstage.analysis.profile import Bottleneck, Profile, profile_module
from crossstage.analysis.weights import WeightNorms, plot_weight_norms, weight_norms

__all__ = [
    "Bottleneck",
    "Kind",
    "Layer",
    "Precision",
    "Profile",
    "WeightNorms",
    "count_flops",
    "operations",
    "plot_weight_norms",
    "profile_module",
    "weight_norms",
]
