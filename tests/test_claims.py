"""The table of architectures in docs/claims is what the code computes, and what it claims."""

from pathlib import Path

import architectures
import pytest
from architectures import TABLE_1, TABLE_3, Claim, counted

DOCS = Path(__file__).parents[1] / "docs" / "claims"


def test_the_table_is_what_the_command_prints(capsys):
    architectures.main()
    assert capsys.readouterr().out == (DOCS / "architectures.md").read_text()


@pytest.mark.parametrize("claim", [claim for claim in TABLE_1 + TABLE_3 if claim.ours], ids=lambda claim: claim.model)
def test_a_network_is_as_near_the_published_one_as_its_basis_allows(claim: Claim):
    within = {"cfg": 0.006, "code": 0.002, "paper": 0.01, "reconstruction": 0.02}[claim.basis]
    for published, ours in zip((claim.bflops, claim.weights), counted(claim), strict=True):
        if published is not None and not claim.all_in:
            assert ours == pytest.approx(published, rel=within)
    assert claim.why or claim.basis == "cfg"


def test_what_is_not_here_is_explained():
    assert all(claim.why for claim in TABLE_1 + TABLE_3 if claim.ours is None)
    assert len(TABLE_1) == 12 and len(TABLE_3) == 36
