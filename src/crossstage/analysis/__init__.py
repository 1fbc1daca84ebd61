"""What a network costs, operation by operation."""

from crossstage.analysis.cost import count_flops, operations
from crossstage.analysis.layer import Kind, Layer, Precision
from crossstage.analysis.profile import Bottleneck, Profile, profile_module

__all__ = [
    "Bottleneck",
    "Kind",
    "Layer",
    "Precision",
    "Profile",
    "count_flops",
    "operations",
    "profile_module",
]
