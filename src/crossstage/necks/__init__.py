"""Necks: lists of feature maps to lists of feature maps."""

from crossstage.necks.fpn import TinyFPN

__all__ = ["TinyFPN"]
