"""Names of version 0.1.0, whose sources of converted networks begin with ``from crossstage.convert import narrow``."""

from crossstage.csp import narrow, narrow_tensor, to_partial

__all__ = ["narrow", "narrow_tensor", "to_partial"]
