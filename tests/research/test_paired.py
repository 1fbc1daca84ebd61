"""Verdicts of paired runs follow from their interval."""

import pytest

from research.studies.paired import paired


def test_an_interval_is_students() -> None:
    found = paired([1.0, 2.0, 3.0])  # standard error 0.57735, t(0.975, 2) = 4.30265
    assert (found.mean, found.low, found.high) == (
        pytest.approx(2),
        pytest.approx(2 - 2.48414, abs=1e-4),
        pytest.approx(2 + 2.48414, abs=1e-4),
    )


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [([1.0, 1.1, 0.9], "supported"), ([-1.0, -1.1, -0.9], "contradicted"), ([1.0, -1.0, 0.2], "undecided")],
)
def test_a_verdict_follows_from_the_interval(differences: list[float], verdict: str) -> None:
    assert paired(differences).verdict == verdict


def test_one_pair_decides_nothing() -> None:
    assert paired([5.0]).verdict == "undecided"
    assert str(paired([5.0])) == "+5.0 (one pair)"
