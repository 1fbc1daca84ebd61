"""What the papers claim, counted, measured and judged: the ledger, the tables of the papers, and what counts."""
