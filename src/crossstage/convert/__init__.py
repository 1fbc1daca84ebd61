"""Any network's cross stage partial variant, as a module and as source."""

from crossstage.convert.narrow import narrow, narrow_tensor
from crossstage.convert.network import Plan, carry_out, make_plan, plan_network, to_partial
from crossstage.convert.origin import origin_of
from crossstage.convert.report import Report, StageReport
from crossstage.convert.source import write_source
from crossstage.convert.trace import Trace

__all__ = [
    "Plan",
    "Report",
    "StageReport",
    "Trace",
    "carry_out",
    "make_plan",
    "narrow",
    "narrow_tensor",
    "origin_of",
    "plan_network",
    "to_partial",
    "write_source",
]
