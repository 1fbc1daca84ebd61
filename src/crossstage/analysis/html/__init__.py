"""What networks cost, side by side, as one page that opens in any browser."""

from crossstage.analysis.html.page import render, write_report

__all__ = ["render", "write_report"]
