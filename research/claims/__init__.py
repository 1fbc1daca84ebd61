"""What the papers claim, counted, measured and judged: a ledger, and the functions that fill it.

Reading the ledger needs no torch; what counts (``structural`` and the modules below it) does.
"""

from research.claims.ledger import LEDGER, Claim, Rule, Value, ledger_text, read_ledger
from research.claims.page import cells, ledger_page, number

__all__ = ["LEDGER", "Claim", "Rule", "Value", "cells", "ledger_page", "ledger_text", "number", "read_ledger"]
