"""What a network costs, operation by operation, and what its layers weigh."""

from crossstage.analysis.cost import Kind, Operation, count_flops, operations
from crossstage.analysis.paths import GradientPaths, gradient_paths
from crossstage.analysis.weights import WeightNorms, plot_weight_norms, weight_norms

__all__ = [
    "GradientPaths",
    "Kind",
    "Operation",
    "WeightNorms",
    "count_flops",
    "gradient_paths",
    "operations",
    "plot_weight_norms",
    "weight_norms",
]
