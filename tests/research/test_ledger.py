"""The ledger of claims: its rules, its words, and its numbers, counted again."""

import json
import re

import pytest
import yaml

from crossstage.errors import ConfigError
from research.claims.__main__ import main
from research.claims.ledger import LEDGER, Claim, Rule, Value, ledger_text, read_ledger
from research.claims.page import ledger_page
from research.claims.structural import STRUCTURAL, rerun
from research.pages import claims as command
from research.places import CLAIMS as DOCS

CLAIMS = read_ledger()
COUNTED = [claim for claim in CLAIMS if claim.kind == "structural"]
LARGE = ("csp-densenet201-elastic", "csp-at-least-10", "detectors-table4")  # test_claims.py counts these networks too
# Section 8 of the facts that this project collected from the papers: every claim, and how it can be decided.
EXPECTED = """
csp-peleenet-flops S, csp-peleenet-top1 E, csp-fusion-last-flops S, csp-fusion-last-top1 E, csp-fusion-first-flops S,
csp-fusion-first-top1 E, csp-gamma25-flops S, csp-gamma25-top1 E, fusion-last-gamma25-flops S,
fusion-last-gamma25-top1 E, gamma-monotone S, peleenext SE, speleenet SE, csp-resnet10 SE, csp-resnet50 SE,
csp-resnext50 SE, csp-darknet53 SE, csp-densenet201-elastic SE, csp-at-least-10 S, ref-nets S, bottleneck-halved S,
pyramid-memory S, cio-formula S, traffic-half S, gradient-paths S, duplicate-gradient E, no-bottleneck S,
efm-vs-gfm EV, efm-table2 SEV, giou-tradeoff E, sam-over-spp EV, detectors-table4 S, panet-spp-coco E,
efm-vs-pelee EV, efm-vs-centernet EV, prn-cpu-fps V, tx2-fps V, osa-mac-bound S, osa-12 SE, osa-5x43 SE, dense-l1 E,
osa-bottleneck SV, vovnet-vs-densenet-speed V, vovnet-maskrcnn SV, vovnetv2-cost S, depthwise-inefficient V
"""
OWN = "prn-vs-thundernet V, vovnet-vs-resnet-speed V"  # whole detectors of tables 4 and 5 that are in no such section
KINDS = {"S": "structural", "E": "empirical", "V": "speed"}


def a_claim(*values: Value, rule: str = "same sign", kind: str = "empirical") -> Claim:
    named = {str(index): value for index, value in enumerate(values)}
    return Claim("id", kind, "It is so.", "a paper", named, command="make", rule=Rule(rule))  # pyright: ignore


def test_every_claim_has_its_entries():
    expected = [(name, KINDS[kind]) for name, kinds in re.findall(r"(\S+) ([SEV]+)", EXPECTED + OWN) for kind in kinds]
    assert sorted((claim.id, claim.kind) for claim in CLAIMS) == sorted(expected)
    assert {claim.id for claim in COUNTED} == set(STRUCTURAL)


def test_the_ledger_lists_what_the_facts_list(shared):
    section = (shared / "FACTS.md").read_text().split("## 8.")[1]
    names: set[str] = set()
    for cell in re.findall(r"^\| ([a-z][^|]*) \| [SEV]", section, re.M):
        for name in cell.split(", "):
            first, _, second = name.partition(" / ")  # "csp-fusion-last-flops / -top1"
            names |= {first, first.removesuffix("-flops") + second} if second else {first}
    assert names == {claim.id for claim in CLAIMS} - {name for name in OWN.split() if "-" in name}


@pytest.mark.parametrize(
    "claim",
    [pytest.param(c, id=c.id, marks=[pytest.mark.slow] if c.id in LARGE else []) for c in COUNTED],
)
def test_a_structural_claim_counted_again_is_what_the_ledger_says(claim: Claim):
    assert rerun(claim) == claim
    assert claim.command == f"python -m research.claims --run {claim.id}"


def test_studies_are_what_their_files_say():
    found = command.studied()
    assert found
    for claim in CLAIMS:
        if (claim.id, claim.kind) in found:
            assert claim.measured(found[claim.id, claim.kind]) == claim


def test_accuracies_are_compared_seed_by_seed(tmp_path):
    def run(label: str, seed: int, *accuracy: float) -> dict:
        return {"label": label, "seed": seed, "accuracy": list(accuracy)}

    runs = [
        *(run("PeleeNet", 0, 0.5, 0.8), run("PeleeNet", 1, 0.5, 0.7), run("PeleeNet", 2, 0.5, 0.75)),
        *(run("CSPPeleeNet, γ 0.5", 1, 0.5, 0.71), run("CSPPeleeNet, γ 0.5", 0, 0.5, 0.83)),
        run("CSPPeleeNet, γ 0.5", 2, 0.9),  # stopped early
    ]
    (tmp_path / "ablation.json").write_text(json.dumps({"epochs": 2, "runs": runs}))
    found = command.ablation(tmp_path / "ablation.json")
    value = found["csp-peleenet-top1", "empirical"]["top-1"]
    assert isinstance(value, Value)
    assert value.published == pytest.approx(0.2) and value.ours == pytest.approx((3.0, 1.0))
    assert found["peleenext", "empirical"]["top-1"] == Value(pytest.approx(-1.8), None)


def test_what_middle_layers_weigh_is_relative_to_the_largest(tmp_path):
    def run(label: str, last: list[float | None]) -> dict:
        norms = [{"values": [[9.0, weight] for weight in last]}]
        return {"label": label, "seed": 0, "accuracy": [0.9], "norms": norms}

    runs = [run("DenseNet-40", [4.0, 1.0, 1.0, 2.0, None]), run("OSA, 12 layers of 20", [1.0, 1.0, 2.0, 2.0])]
    (tmp_path / "osa.json").write_text(json.dumps({"epochs": 1, "runs": runs}))
    found = command.osa(tmp_path / "osa.json")["dense-l1", "empirical"]
    assert found == {"OSA, 12 layers of 20": (0.5,), "OSA, 5 layers of 43": None}  # 3/4 less 1/4


def test_gradients_are_read_off_their_page(tmp_path):
    cells = ("layers with each other: last below plain", "PeleeNet", "CKA", "-0.100, +0.020", "differs", "3 of 8")
    head = "| expected | family | measure | difference by seed | | pairs below |\n|---|---|---|---:|---|---:|"
    (tmp_path / "gradients.md").write_text(f"{head}\n| {' | '.join(cells)} |\n")
    found = command.gradients(tmp_path / "gradients.md")["duplicate-gradient", "empirical"]
    assert found == {"PeleeNet, CKA, layers with each other: last below plain": Value(0.0, (-0.1, 0.02))}


def test_verdicts_and_page_follow_from_the_values():
    assert ledger_text(CLAIMS) == LEDGER.read_text()
    assert ledger_page(CLAIMS) == (DOCS / "index.md").read_text()
    assert (DOCS / "claims.yaml").resolve() == LEDGER
    stored = yaml.safe_load(LEDGER.read_text())["claims"]
    assert [entry["verdict"] for entry in stored] == [claim.verdict for claim in CLAIMS]


def test_what_cannot_be_tested_has_a_reason_and_no_number_of_ours():
    untestable = [claim for claim in CLAIMS if claim.verdict == "not testable here"]
    assert untestable and all(claim.untestable for claim in untestable)
    assert all(value.ours is None for claim in untestable for value in claim.values.values())


@pytest.mark.parametrize(
    ("rule", "published", "ours", "agrees"),
    [
        ("within 1", -13.0, -12.1, True),
        ("within 1", -13.0, -11.9, False),
        ("within 2%", -200.0, -203.9, True),
        ("within 2%", -200.0, -204.1, False),
        ("at least", 10.0, 10.0, True),
        ("at least", 10.0, 7.9, False),
        ("at most", 50.0, 49.9, True),
        ("at most", 50.0, (49.0, 51.0), False),
        ("same sign", 0.2, 3.0, True),
        ("same sign", -0.1, 0.0, False),
        ("same sign", 2.1, (1.4, 1.0), True),
        ("same sign", 2.1, (1.4, -0.1), False),
        ("same sign", 2.1, None, False),
    ],
)
def test_rules(rule, published, ours, agrees):
    assert Rule(rule).agrees(Value(published, ours)) is agrees


def test_a_verdict_takes_all_values():
    good, bad = Value(1.0, 2.0), Value(1.0, -2.0)
    assert a_claim(good, good).verdict == "reproduced at small scale"
    assert a_claim(good, good, kind="speed").verdict == "reproduced"
    assert a_claim(good, bad).verdict == "not reproduced"
    assert a_claim(good, Value(1.0)).verdict == "not measured yet"
    assert a_claim().verdict == "not measured yet"


def test_new_numbers_keep_the_published_ones_and_their_own_names():
    claim = a_claim(Value(34.4), rule="within 1%")
    assert claim.measured({"0": 34.408448}).values == {"0": Value(34.4, 34.41)}
    assert claim.measured({"new": Value(1.23456, (1.0, 2.0))}).values == {"new": Value(1.235, (1.0, 2.0))}
    with pytest.raises(ConfigError, match="claim id: nothing published is called 'other'"):
        claim.measured({"other": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "nearly"}, "claim 'id': rule 'nearly'; expected within N"),
        ({"command": ""}, "claim 'id': expected a command and a rule, or why it is untestable"),
        ({"values": {"x": {"ours": 1}}}, "claim 'id': 'published'"),
        ({"colour": "red"}, "claim 'id': .*unexpected keyword argument 'colour'"),
    ],
)
def test_a_faulty_ledger_is_refused(change, message, tmp_path):
    entry = yaml.safe_load(ledger_text([a_claim(Value(1.0))]))["claims"][0]
    file = tmp_path / "claims.yaml"
    file.write_text(json.dumps({"claims": [entry | change]}))
    with pytest.raises(ConfigError, match=message):
        read_ledger(file)


def test_the_table_is_printed(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(claim.id in printed for claim in CLAIMS)
    assert re.search(r"structural: \d+ reproduced, \d+ not reproduced", printed)


def test_a_claim_is_run_again(capsys):
    assert main(["--run", "osa-mac-bound"]) == 0
    printed = capsys.readouterr().out
    assert "MAC over its bound" in printed and "differs" not in printed


def test_a_rerun_that_differs_from_the_ledger_gives_exit_code_1(capsys, monkeypatch):
    monkeypatch.setitem(STRUCTURAL, "pyramid-memory", lambda: {"handed down to coarser levels": -74.0})
    assert main(["--run", "pyramid-memory"]) == 1
    assert "differs from the ledger" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("peleenet", "no claim is called 'peleenet'; did you mean speleenet or peleenext"),
        ("tx2-fps", "'tx2-fps' is not decided by counting: there is no Jetson TX2 here"),
        ("giou-tradeoff", "'giou-tradeoff' is not decided by counting: `python -m research.studies.efm train"),
    ],
)
def test_what_cannot_be_run_is_told(name, message, capsys):
    assert main(["--run", name]) == 2
    assert message in capsys.readouterr().err
