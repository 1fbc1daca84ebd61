"""Numbers as files and callers write them: ``"1"``, ``"1.0"``, ``1.000e+00``, numpy's; bounded and finite."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real

from crossstage.reading.text import shown

LARGEST = 2**63 - 1  # what a column of identifiers holds
MAX_DIGITS = 100
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def whole(value: object) -> int:
    """Read a whole number, also where it is written or stored as a float without a fraction.

    Args:
        value: A number of Python or numpy, or its text; booleans are no numbers.

    Returns:
        The number, from -2^63 to 2^63 - 1.

    Raises:
        ValueError: It is something else; the message says what was found and expected.
    """
    found = _parsed(value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if not isinstance(found, int) or not -LARGEST - 1 <= found <= LARGEST:
        raise ValueError(f"found {shown(value)}, expected a whole number")
    return found


def number(value: object) -> float:
    """Read a finite number.

    Args:
        value: A number of Python or numpy, or its text; booleans are no numbers.

    Raises:
        ValueError: It is something else; the message says what was found and expected.
    """
    found = _parsed(value)
    try:
        result = math.nan if found is None else float(found)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ValueError(f"found {shown(value)}, expected a finite number")
    return result


def _parsed(value: object) -> int | float | None:
    """Return what a value is as a number of Python; None if it is none."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > MAX_DIGITS:
            return None
        if _WHOLE.fullmatch(text):
            return int(text)
        return float(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else None
