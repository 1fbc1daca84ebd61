"""What a network costs, operation by operation; how gradients flow through it; what its layers weigh."""

from crossstage.analysis.cost import Kind, Operation, count_flops, operations
from crossstage.analysis.paths import GradientPaths, gradient_paths
from crossstage.analysis.redundancy import (
    Similarity,
    Tap,
    gradient_similarity,
    linear_cka,
    plot_similarity,
    stage_taps,
    subspace_overlap,
)
from crossstage.analysis.weights import WeightNorms, plot_weight_norms, weight_norms

__all__ = [
    "GradientPaths",
    "Kind",
    "Operation",
    "Similarity",
    "Tap",
    "WeightNorms",
    "count_flops",
    "gradient_paths",
    "gradient_similarity",
    "linear_cka",
    "operations",
    "plot_similarity",
    "plot_weight_norms",
    "stage_taps",
    "subspace_overlap",
    "weight_norms",
]
