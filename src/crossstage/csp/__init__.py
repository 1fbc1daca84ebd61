"""Any network's cross stage partial variant, as a module and as source."""

from crossstage.csp.narrow import narrow, narrow_tensor
from crossstage.csp.network import ConversionPlan, carry_out, make_plan, plan_network, to_partial
from crossstage.csp.origin import origin_of
from crossstage.csp.report import Report, StageReport
from crossstage.csp.source import write_source
from crossstage.csp.trace import Trace

__all__ = [
    "ConversionPlan",
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
