"""The page on gradient flow: its structural half is what the code computes, its readings what its numbers say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossstage.analysis import stage_taps
from research.studies import gradient_runs, gradients
from research.studies.gradient_runs import FAMILIES, VARIANTS

PAGE = Path(__file__).parents[2] / "docs" / "claims" / "gradients.md"
CARRIED = {"names": ["carried", "input", "1", "2", "3"]}
PLAIN = {"names": ["input", "1", "2", "3"]}


def stage(names: dict, with_each_other: float, with_bypass: float) -> dict:
    size = len(names["names"])
    values = np.full((size, size), with_each_other)
    values[0], values[:, 0] = with_bypass, with_bypass
    np.fill_diagonal(values, 1)
    return {**names, "cka": values.tolist(), "overlap": values.tolist()}


def runs(levels: dict[str, float], seeds: int = 3) -> list[dict]:
    return [
        {
            "family": family.title,
            "variant": variant,
            "seed": seed,
            "top1": 40.0 + seed,
            "before": [stage(PLAIN if variant == "plain" else CARRIED, 0.1, 0.1)],
            "after": [stage(PLAIN if variant == "plain" else CARRIED, 0.3, level + seed / 1000)],
        }
        for family in FAMILIES
        for variant, level in levels.items()
        for seed in range(seeds)
    ]


def test_the_pages_paths_of_stages_are_what_the_code_counts_and_a_split_adds_one():
    rows = gradients.stage_table()
    assert "\n".join(rows) in PAGE.read_text()
    for row in rows[2:]:
        plain, split = (int(cell.replace(",", "")) for cell in row.split("|")[2:4])
        assert split == plain + 1


@pytest.mark.parametrize("name", gradients.PAIRS)
def test_the_pages_paths_of_a_network_are_what_the_code_counts(name):
    assert gradients.network_row(name) in PAGE.read_text().splitlines()


def test_the_page_has_the_whole_table_of_networks(monkeypatch):
    rows = {line.split()[1]: line for line in PAGE.read_text().splitlines() if line.startswith("| ")}
    monkeypatch.setattr(gradients, "network_row", rows.__getitem__)
    assert "\n".join(gradients.network_table()) in PAGE.read_text()


def test_the_pairs_that_a_stage_is_read_for():
    values = np.arange(25).reshape(5, 5).tolist()
    found = {**CARRIED, "cka": values}
    np.testing.assert_array_equal(gradients.with_each_other(found, "cka"), [13, 14, 19])
    np.testing.assert_array_equal(gradients.with_bypass(found, "cka"), [2, 3, 4])
    np.testing.assert_array_equal(gradients.with_processed(found, "cka"), [7, 8, 9])


def test_readings_tell_what_holds_for_all_seeds():
    lines, held, count = gradients.readings(runs({"plain": 0.5, "first": 0.6, "last": 0.4, "both": 0.5005}))
    told = {tuple(cell.strip() for cell in line.split("|")[1:4]): line for line in lines[2:]}
    carried = "layers with the carried part"
    row = told[f"{carried}: last below plain", "PeleeNet", "linear CKA"]
    assert "| -0.100, -0.100, -0.100 | holds | 9 of 9 |" in row
    assert "| does not hold | 0 of 9 |" in told[f"{carried}: first below plain", "DenseNet", "subspace overlap"]
    assert "| does not hold | 0 of 9 |" in told["layers with each other: last below plain", "DenseNet", "linear CKA"]
    # with the carried part, last lies below plain and below first: 2 orderings, 2 families, 2 measures
    assert (held, count) == (8, 32)


def test_a_table_gives_means_and_half_ranges():
    same = [run for run in runs(dict.fromkeys(VARIANTS, 0.5)) if run["family"] == "PeleeNet"]
    row = gradients.similarity_table(same, "cka")[2]
    assert row.startswith("| plain | 0.100 ± 0.000 | 0.300 ± 0.000 | 0.100 ± 0.000 | 0.501 ± 0.001 |")
    assert row.endswith("| 41.0 ± 1.0 |")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.title)
def test_the_networks_of_a_family_differ_in_the_split_alone(family):
    layers = {}
    for variant in VARIANTS:
        with torch.device("meta"):
            model = family.build(variant)
        assert model(torch.empty(2, 3, gradient_runs.SIDE, gradient_runs.SIDE, device="meta")).shape == (2, 10)
        layers[variant] = [[name for name in taps if name.isdigit()] for taps in stage_taps(model).values()]
    assert len(layers["plain"]) == 4
    assert all(found == layers["plain"] for found in layers.values())
