"""The command line, run as people run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossstage.cli import main
from crossstage.data.formats.coco import find_coco
from crossstage.evaluation import evaluate
from crossstage.weights.loading import load_detector

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
SHAPES = Path(__file__).parents[1] / "fixtures" / "v0.1.0" / "data" / "shapes"
CFG = Path(__file__).parents[2] / "examples" / "darknet" / "yolov4-tiny.cfg"


def test_predict_finds_what_is_in_the_demo_photos(tmp_path, capsys):
    code = main(["predict", str(PHOTOS), "--save", str(tmp_path / "out"), "--json", str(tmp_path / "found.jsonl")])
    assert code == 0
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    found = {Path(line["source"]).stem[-5:]: {d["class_name"] for d in line["detections"]} for line in lines}
    assert "bus" in found["00471"]
    assert {"cat", "remote"} <= found["00599"]
    assert {"person", "horse"} <= found["07281"]
    assert {"person", "skis"} <= found["00785"]
    assert {"tvmonitor", "keyboard", "person"} <= found["09483"]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(f.name for f in PHOTOS.iterdir())
    printed = capsys.readouterr().out
    assert "median ms: decode" in printed and "bus 0." in printed


def test_where_nobody_reads_on_it_ends_without_a_word(capsys):
    """As other tools do, with the exit code that a shell gives to what SIGPIPE ends."""
    read, write = os.pipe()
    os.close(read)
    try:
        assert main(["predict", str(PHOTOS), "--quiet", "--json", f"/dev/fd/{write}"]) == 141
    finally:
        os.close(write)
    assert "rror" not in capsys.readouterr().err


@pytest.mark.parametrize("classes", [["cat", "horse"], ["cat,horse"], ["15", "17"]])
def test_classes_narrow_the_search(classes, tmp_path):
    file = tmp_path / "found.jsonl"
    assert main(["predict", str(PHOTOS), "--classes", *classes, "--json", str(file)]) == 0
    names = {d["class_name"] for line in file.read_text().splitlines() for d in json.loads(line)["detections"]}
    assert names == {"cat", "horse"}


def test_unreadable_files_are_named_and_give_exit_code_1(tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"")
    assert main(["predict", str(tmp_path)]) == 1
    assert "bad.jpg: empty file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere.jpg"], "error: nowhere.jpg: no such file or folder"),
        (["predict", str(PHOTOS), "--imgsz", "400"], "error: imgsz=400; expected a multiple of 32"),
        (["predict", str(PHOTOS), "--classes", "dragon"], "error: class 'dragon' is unknown"),
        (["predict", str(PHOTOS), "--device", "nowhere"], "error: device 'nowhere' cannot be used"),
        (["predict", str(PHOTOS), "--model", "yolo"], "error: model 'yolo' is unknown"),
        (["predict", str(PHOTOS), "--model", "darknet53"], "error: darknet53 has no weights yet"),
        (["val", "--data", "nowhere"], "error: nowhere: no such file or folder"),
        (["info", "cspdarknet52"], "did you mean"),
        (["data", "show", str(SHAPES), "--out", "/dev/null"], "error: /dev/null: expected the name of an image"),
        (["darknet", "info", "nowhere.cfg"], "error: nowhere.cfg: cannot be read"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed


@pytest.mark.parametrize("arguments", [["predict"], ["no-such-verb"], ["val"], ["predict", "x", "--conf", "high"], []])
def test_wrong_usage_gives_exit_code_2_without_a_traceback(arguments):
    done = subprocess.run([sys.executable, "-m", "crossstage", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage" in done.stderr and "Traceback" not in done.stderr


def test_models_and_cards_are_shown(capsys):
    assert main(["models", "*tiny*"]) == 0
    printed = capsys.readouterr().out
    assert ".coco" in printed and "6.908" in printed
    assert "Darknet-53" not in printed
    assert main(["info", "cspdarknet53_tiny_yolo.coco"]) == 0
    printed = capsys.readouterr().out
    assert "6,056,606" in printed and "public domain" in printed.lower()


def test_darknet_network_is_shown_with_its_weights(shared, tmp_path, capsys):
    weights = shared / "weights" / "yolov4-tiny.weights"
    assert main(["darknet", "info", str(CFG), "--weights", str(weights)]) == 0
    printed = capsys.readouterr().out
    assert "6.910" in printed and "6,056,606" in printed and "fills all 21 layers with weights exactly" in printed

    short = tmp_path / "short.weights"
    short.write_bytes(weights.read_bytes()[: 20 + 4 * (32 * 4 + 32 * 27)])
    assert main(["darknet", "info", str(CFG), "--weights", str(short)]) == 0
    assert "is short: it fills 1 of 21 layers" in capsys.readouterr().out

    long = tmp_path / "long.weights"
    long.write_bytes(weights.read_bytes() + b"1234")
    assert main(["darknet", "info", str(CFG), "--weights", str(long)]) == 0
    assert "4 surplus bytes" in capsys.readouterr().out


def test_val_measures_what_evaluate_measures(few_coco, tmp_path, capsys):
    """What evaluate gives for all images is held to the documented figures in tests/evaluation/test_accuracy.py."""
    file = tmp_path / "report.json"
    assert main(["val", "--data", str(few_coco), "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    wanted = evaluate(load_detector("cspdarknet53_tiny_yolo.coco"), find_coco(few_coco, split="val"))
    for name in wanted.metric_names():
        assert report[name] == pytest.approx(getattr(wanted, name), abs=1e-9)
    assert report["ap50"] > 0.4
    printed = capsys.readouterr().out
    assert wanted.ap and f"{100 * wanted.ap:.1f}" in printed and "10 images" in printed and "ms" in printed


def test_a_sweep_of_thresholds_holds_what_val_measures(few_coco, tmp_path, capsys):
    file = tmp_path / "sweep.json"
    assert main(["val", "--data", str(few_coco), "--imgsz", "160", "--nms-sweep", "--json", str(file)]) == 0
    rows = {(row["suppression"], row["iou"]): row for row in json.loads(file.read_text())}
    assert len(rows) == 27 and "diou: AP AP50 AP75" in capsys.readouterr().out
    for nms, iou in (("iou", 0.45), ("diou", 0.6), ("agnostic", 0.5)):
        report = tmp_path / "report.json"
        options = ["--imgsz", "160", "--nms", nms, "--iou", str(iou), "--json", str(report)]
        assert main(["val", "--data", str(few_coco), *options]) == 0
        assert json.loads(report.read_text())["ap"] == pytest.approx(rows[nms, iou]["ap"], abs=1e-9)
    assert rows["agnostic", 0.45]["ap"] < rows["iou", 0.45]["ap"]


@pytest.mark.parametrize("verb", ["predict", "val"])
def test_no_image_has_more_detections_than_asked_for(verb, few_coco, tmp_path):
    file = tmp_path / "found.json"
    words = {"predict": [str(PHOTOS), "--conf", "0.05"], "val": ["--data", str(few_coco), "--imgsz", "160"]}[verb]
    assert main([verb, *words, "--max-detections", "1", "--json", str(file)]) == 0
    if verb == "val":
        assert json.loads(file.read_text())["detections"] <= 10
    else:
        assert [len(json.loads(line)["detections"]) for line in file.read_text().splitlines()] == [1] * len(
            list(PHOTOS.iterdir())
        )


def test_without_suppression_nothing_is_dropped(tmp_path):
    counts = {}
    for nms in ("none", "iou"):
        file = tmp_path / f"{nms}.jsonl"
        assert main(["predict", str(PHOTOS), "--nms", nms, "--json", str(file)]) == 0
        counts[nms] = sum(len(json.loads(line)["detections"]) for line in file.read_text().splitlines())
    assert counts["none"] > counts["iou"]


def test_models_by_pattern_with_their_cost(capsys):
    assert main(["models", "csppelee*_ref"]) == 0
    printed = capsys.readouterr().out
    assert "csppeleenet_ref" in printed and "reconstruction" in printed and "1.110" in printed
    assert "csppeleenet_swish" not in printed


def test_models_without_a_match_name_the_nearest(capsys):
    assert main(["models", "csppeleent"]) == 2
    assert "no model is called 'csppeleent'; did you mean csppeleenet" in capsys.readouterr().err


def test_gradients_tells_of_paths_and_draws_similarity(capsys, tmp_path, colours):
    file, image = tmp_path / "paths.json", tmp_path / "maps.png"
    words = ["gradients", "csppeleenet", "--imgsz", "32", "--json", str(file), "--data", str(colours)]
    assert main([*words, "--save", str(image)]) == 0
    rows = {row["layer"]: row for row in json.loads(file.read_text())}
    assert rows["input"] == {"layer": "input", "paths": 882457760, "shortest": 11, "longest": 70}
    assert "882,457,760" in capsys.readouterr().out
    assert image.read_bytes().startswith(b"\x89PNG")


def test_gradients_refuses_data_for_a_detector(capsys, colours):
    assert main(["gradients", "cspdarknet53_tiny_yolo", "--data", str(colours)]) == 2
    assert "is a detector" in capsys.readouterr().err


def test_families_are_listed_with_a_place_for_the_backbone(capsys):
    assert main(["models", "fasterrcnn*"]) == 0
    told = capsys.readouterr().out
    assert "with any backbone: fasterrcnn_<backbone>_fpn, fasterrcnn_<backbone>_fpn_gn" in told and "model" not in told
