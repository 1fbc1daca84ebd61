"""What the papers claim, counted, measured and judged: a ledger, and the functions that fill it."""

from crossstage.claims.ledger import LEDGER, Claim, Rule, Value, ledger_text, read_ledger
from crossstage.claims.page import cells, ledger_page
from crossstage.claims.structural import STRUCTURAL, rerun

__all__ = [
    "LEDGER",
    "STRUCTURAL",
    "Claim",
    "Rule",
    "Value",
    "cells",
    "ledger_page",
    "ledger_text",
    "read_ledger",
    "rerun",
]
