"""What a network costs, operation by operation."""

from crossstage.analysis.cost import Kind, Operation, count_flops, operations

__all__ = ["Kind", "Operation", "count_flops", "operations"]
