"""Any network's cross stage partial variant, as a module and as source."""

from crossstage.convert.convert import to_partial
from crossstage.convert.narrow import narrow, narrow_tensor
from crossstage.convert.report import Report, StageReport

__all__ = ["Report", "StageReport", "narrow", "narrow_tensor", "to_partial"]
