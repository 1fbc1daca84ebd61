"""The table of architectures in docs/claims is what the code computes, and what it claims."""

from collections.abc import Callable
from pathlib import Path

import pytest

from research.claims.comparators import TABLES, Comparator
from research.claims.detectors import TABLE_2, TABLE_4, DetectorRow, largest, traffic
from research.claims.networks import TABLE_1, TABLE_3, NetworkRow
from research.pages import architectures, comparators, detectors
from tests.sweep import sweep

DOCS = Path(__file__).parents[2] / "docs" / "claims"


def lines_of(page: str) -> list[str]:
    return (DOCS / page).read_text().splitlines()


def rows_of(page: str) -> list[str]:
    """Return a page's lines about networks."""
    return [
        line for line in lines_of(page) if line.startswith("| ") and not line.startswith(("| model ", "| detector "))
    ]


def as_printed(page: str) -> Callable[[NetworkRow | DetectorRow], str]:
    """Return a stand-in for a page's function of rows, which gives its lines in order; each line has its own test."""
    lines = iter(rows_of(page))

    def row(claim: NetworkRow | DetectorRow) -> str:
        line = next(lines)
        assert line.startswith(f"| {claim.model} | ")
        return line

    return row


@pytest.mark.parametrize(
    "claim", sweep(TABLE_1 + TABLE_3, lambda claim: claim.model.split("-")[0]), ids=lambda claim: claim.model
)
def test_a_networks_line_is_what_the_command_prints(claim: NetworkRow):
    assert architectures.row(claim) in lines_of("architectures.md")


def test_the_page_is_these_lines_in_order(capsys, monkeypatch):
    monkeypatch.setattr(architectures, "row", as_printed("architectures.md"))
    architectures.main()
    assert capsys.readouterr().out == (DOCS / "architectures.md").read_text()


def test_networks_are_as_near_the_published_ones_as_their_basis_allows():
    """As the page has them, whose lines are counted again above."""
    for claim, line in zip(TABLE_1 + TABLE_3, rows_of("architectures.md"), strict=True):
        if claim.ours is None:
            continue
        within = {"cfg": 0.006, "code": 0.002, "paper": 0.01, "reconstruction": 0.02}[claim.basis]
        columns = line.split("|")
        for published, ours in ((claim.bflops, columns[5]), (claim.weights, columns[8])):
            if published is not None and not claim.all_in:
                assert float(ours) == pytest.approx(published, rel=within), claim.model
        assert claim.why or claim.basis == "cfg"


def test_what_is_not_here_is_explained():
    assert all(claim.why for claim in TABLE_1 + TABLE_3 if claim.ours is None)
    assert len(TABLE_1) == 12 and len(TABLE_3) == 36


@pytest.mark.parametrize(
    "claim", sweep(TABLE_2 + TABLE_4, lambda claim: claim.basis), ids=lambda claim: f"{claim.model} {claim.size}"
)
def test_a_detectors_line_is_what_the_command_prints(claim: DetectorRow):
    assert detectors.row(claim) in lines_of("detectors.md")


def test_the_page_of_detectors_is_these_lines_in_order_and_what_figure_7_says(capsys, monkeypatch):
    monkeypatch.setattr(detectors, "row", as_printed("detectors.md"))
    detectors.main([])
    assert capsys.readouterr().out == (DOCS / "detectors.md").read_text()


def test_detectors_are_as_near_the_published_ones_as_their_basis_allows():
    """As the page has them, whose lines are counted again above."""
    for claim, line in zip(TABLE_2 + TABLE_4, rows_of("detectors.md"), strict=False):  # other tables follow
        columns = line.split("|")
        bflops, weights, stored = (float(columns[number]) for number in (6, 9, 10))
        if claim.basis == "reconstruction":
            assert bflops == pytest.approx(claim.bflops, rel=0.02), claim.model
        else:  # to the last published digit, up to how that was rounded
            digits = 3 if claim.weights is None else 2 if claim.bflops < 10 else 1
            assert abs(bflops - claim.bflops) < 1.01 * 10**-digits, claim.model
        if claim.weights is not None and "not explained" not in claim.why and "first row" not in claim.why:
            assert min(abs(count - claim.weights) for count in (weights, stored)) < 0.05, claim.model


def test_figure_7s_claims_hold():
    efm = largest("csppeleenet_efm").flops
    assert efm / largest("peleenet_yolo", "backbone").flops - 1 == pytest.approx(-0.44, abs=0.005)
    assert efm / largest("peleenet_yolo").flops - 1 == pytest.approx(-0.80, abs=0.005)
    assert traffic(True)["handed down"] / traffic(False)["handed down"] == 0.25


def test_figure_7_is_drawn(tmp_path):
    detectors.main(["--plot", str(tmp_path / "layers.png")])
    assert (tmp_path / "layers.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


COMPARED = [(title, claim) for title, claims in TABLES.items() for claim in claims]


@pytest.mark.parametrize(
    "entry", sweep(COMPARED, lambda entry: entry[0]), ids=lambda entry: f"{entry[1].model} {entry[1].parameters or ''}"
)
def test_a_comparators_line_is_what_the_command_prints(entry: tuple[str, Comparator]):
    assert comparators.row(entry[1]) in lines_of("comparators.md")


def test_every_comparator_has_its_line():
    lines = [line for line in lines_of("comparators.md") if line.startswith("| ") and not line.startswith("| detector")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [claim.model for _, claim in COMPARED]
