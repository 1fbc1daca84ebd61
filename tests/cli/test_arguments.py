"""What verbs take: all options of version 0.1.0, typed, with messages of one line that say what was meant."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crossstage.cli import VERBS, main, names, parser_of
from crossstage.cli.predict import MOST_DETECTIONS
from crossstage.cli.val import MOST_DETECTIONS as MOST_SCORED
from crossstage.cli.verb import Group, Verb
from crossstage.ops.nms import NMS, for_evaluation

OWN = {"--iou": (None,), "--nms": (None,)}  # the model's own, which is as before for those of 0.1.0
OPTIONS = json.loads((Path(__file__).parent / "options-v0.1.0.json").read_text())
ALL: dict[str, Verb] = {}
for name, found in VERBS.items():
    ALL |= {f"{name} {word}": verb for word, verb in found.verbs.items()} if isinstance(found, Group) else {name: found}


def given(verb: str, *words: str) -> dict:
    return vars(parser_of(f"crossstage {verb}", ALL[verb]).read(words))


@pytest.mark.parametrize("verb", [verb for verb in OPTIONS if not verb.startswith("train")])
def test_every_option_of_0_1_0_has_its_place_and_default(verb):
    declared = parser_of("x", ALL[verb]).options()
    for option, default in OPTIONS[verb].items():
        assert option in declared and declared[option].default in (default, *OWN.get(option, ())), option


def test_training_has_every_option_of_0_1_0(capsys):
    declared = parser_of("x", ALL["train"]).options()
    assert OPTIONS["train"].keys() | OPTIONS["train --resume"].keys() <= declared.keys()
    assert main(["train", "--print-config"]) == 0
    import yaml

    from crossstage.data.augment import Augmentation

    printed = yaml.safe_load(capsys.readouterr().out)
    for option, default in OPTIONS["train"].items():
        room, _, name = option[2:].partition(".")
        if name and room == "augment":
            assert getattr(Augmentation(), name) == default, option
        elif room in printed and not name and room not in ("augment", "loss"):
            assert printed[room] in (default, None) or room == "data", option  # None is planned


@pytest.mark.parametrize("verb", ALL)
def test_help_sends_nobody_to_the_code(verb):
    assert not re.search(r"crossstage\.[a-z_]+\.", parser_of("x", ALL[verb]).format_help())


@pytest.mark.parametrize("verb", ALL)
def test_every_verb_may_be_quiet(verb):
    assert "--quiet" in parser_of("x", ALL[verb]).options()


def test_choices_are_those_of_the_tables(monkeypatch):
    from crossstage.data.formats import FORMATS
    from crossstage.deploy.backends import BACKENDS

    monkeypatch.setitem(FORMATS, "toy", FORMATS["coco"])
    monkeypatch.setitem(BACKENDS, "toy", BACKENDS["onnxruntime"])
    assert given("data check", "x", "--format", "toy")["format"] == "toy"
    assert given("train", "--format", "toy")["given"] == (("format", "toy"),)
    assert given("predict", "x", "--runtime", "toy")["runtime"] == "toy"
    assert given("benchmark", "x", "--runtimes", "toy,torch")["runtimes"] == ["toy", "torch"]
    monkeypatch.setitem(BACKENDS, "toy", BACKENDS["openvino"])
    assert given("export", "x", "--format", "toy")["format"] == "toy"


def test_types_that_are_read_from_source_are_those_that_run():
    from typing import get_args

    from crossstage.data.faults import OnBadLabel
    from crossstage.nn.partial import Fusion, SplitKind
    from crossstage.ops.nms import NMSKind

    assert names.nms_kinds() == get_args(NMSKind)
    assert names.on_bad_label() == get_args(OnBadLabel)
    assert names.fusions() == get_args(Fusion)
    assert names.splits() == get_args(SplitKind)
    assert NMS().max_detections == MOST_DETECTIONS
    assert for_evaluation(NMS()).max_detections == MOST_SCORED


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--max-detections", "7"], ("max_detections", 7)),
        (["--max_detections=7"], ("max_detections", 7)),
        (["--conf", "1e-1"], ("conf", 0.1)),
        (["--compiled"], ("compiled", True)),
        (["--compiled", "true"], ("compiled", True)),
        (["--compiled=off"], ("compiled", False)),
        (["--compiled", "--iou", "0.5"], ("compiled", True)),
        (["--classes", "cat", "dog", "--batch", "2"], ("classes", ["cat", "dog"])),
        (["--classes", "cat,dog", "7"], ("classes", ["cat", "dog", "7"])),
        (["--imgsz", "null"], ("imgsz", None)),
        (["--mod", "m"], ("model", "m")),
    ],
)
def test_options_may_be_spelled_in_many_ways(words, value):
    for order in (["x", *words], [*words, "--json", "j", "x"]):
        found = given("predict", *order)
        assert (value[0], found[value[0]]) == value and found["source"] == "x"


def test_a_flag_does_not_take_what_follows_it_for_its_value():
    assert given("predict", "--compiled", "photos") == given("predict", "photos", "--compiled")


def test_o_is_short_for_out():
    assert given("export", "m", "-o", "x.onnx")["out"] == "x.onnx"


def test_names_of_files_keep_their_commas():
    assert given("profile", "m", "--write", "a,b.json", "c.csv")["write"] == ["a,b.json", "c.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predct"], "'predct' is unknown; expected one of predict, "),
        (["predct"], "did you mean predict?"),
        (["data", "chek"], "did you mean check?"),
        ([], "a verb is missing"),
        (["darknet"], "a verb is missing; expected one of info, convert"),
        (["predict", "--modle", "x", "y"], "option --modle is unknown; did you mean --model?"),
        (["predict", "x", "--runtime", "openvno"], "--runtime is 'openvno'; expected one of auto, torch, "),
        (["predict", "x", "--runtime", "openvno"], "did you mean openvino"),
        (["export", "m", "--format", "onx"], "did you mean onnx?"),
        (["data", "check", "x", "--format", "ymlo"], "expected one of coco, "),
        (["benchmark", "m", "--runtimes", "torch", "openvno"], "did you mean openvino"),
        (["explore", "--backbone", "m", "--fusion", "frist"], "did you mean first?"),
        (["val", "--data", "d", "--nms", "diuo"], "did you mean diou"),
        (["predict", "x", "--conf", "high"], "--conf is 'high'; expected a number"),
        (["predict", "x", "--batch", "2.5"], "--batch is '2.5'; expected a whole number"),
        (["predict", "x", "--compiled=maybe"], "--compiled is 'maybe'; expected true or false"),
        (["predict", "x", "--conf"], "--conf has no value"),
        (["predict", "x", "y"], "'y' is one argument too many"),
        (["predict"], "source is missing; usage: crossstage predict SOURCE [options]"),
        (["val"], "--data is missing; usage: crossstage val --data DATA [options]"),
        (["train", "--optimizer", "adam"], "did you mean adamw?"),
        (["train", "--augment.mosiac", "0"], "did you mean --augment.mosaic"),
        (["train", "--epochs", "3"], "the dataset is missing; usage: crossstage train DATA [options]"),
        (["train", "--resume", "r", "--lr", "3"], "--lr does not go with --resume"),
        (["claims"], "python -m research.claims"),
    ],
)
def test_what_does_not_fit_is_one_line_that_says_what_was_meant(words, message, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_no_help_loads_torch():
    words = [verb.split() for verb in ("", *ALL, "data", "darknet")]
    code = (
        "import sys\nfrom crossstage.cli import main\n"
        f"for words in {words}:\n"
        "    try:\n        code = main([*words, '--help'])\n"
        "    except SystemExit as error:\n        code = error.code\n"
        "    assert not code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: crossstage") == len(words)


def test_help_shows_defaults_and_choices(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["val", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "{iou,diou,agnostic,none}" in printed and "(default: 0.001)" in printed and "(default: 100)" in printed
