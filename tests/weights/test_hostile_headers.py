"""Model files that lie: whatever a header says that is not so is one line, wherever the file is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import crossstage
from crossstage.cli import main
from crossstage.errors import WeightsError
from crossstage.models.spec import HASH
from crossstage.weights.model_file import read_model, write_model
from crossstage.weights.ref import parse
from crossstage.weights.starting import start_model
from crossstage.weights.stored import stored_spec

START = Path(__file__).parents[1] / "fixtures" / "v0.1.0" / "models" / "start_detector.safetensors"


def changed(path: Path, out: Path, change) -> Path:
    """Write a model file with another header."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["crossstage"])
    change(content)
    save_file(load_file(path), out, metadata={"crossstage": json.dumps(content)})
    return out


def preprocessing(**values):
    return lambda content: content["preprocessing"].update(values)


def overrides(**values):
    return lambda content: content["overrides"].update(values)


LIES = [
    preprocessing(size=[0, 0]),
    preprocessing(size=[-64, 64]),
    preprocessing(size=[102_400, 102_400]),
    preprocessing(size=["64", 64]),
    preprocessing(size=3),
    preprocessing(mean=[float("inf"), 0, 0]),
    preprocessing(std=[0, 1, 1]),
    preprocessing(fill=float("nan")),
    preprocessing(divisor=10**9),
    overrides(levels="x"),
    overrides(levels=[1, 2]),
    overrides(act=7),
    overrides(width=10**12),
    overrides(nonsense={"YoloConfig": {}}),
    overrides(deep=[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]),
    lambda content: content.update(num_classes=10**9),
    lambda content: content.update(num_classes=7),
    lambda content: content.update(num_classes="2"),
    lambda content: content.update(class_names="ab"),
    lambda content: content.update(class_names=["a"]),
    lambda content: content.update(name="no_such_model"),
    lambda content: content.update(name=["x"]),
    lambda content: content.update(preprocessing=[1]),
    lambda content: content.update(provenance={"x": 1}),
    lambda content: content.update(format="2"),
]


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_a_header_that_lies_is_one_line_wherever_it_is_read(lie, tmp_path):
    path = changed(START, tmp_path / "m.safetensors", lie)
    readers = [
        crossstage.load,
        crossstage.create_model,
        lambda name: start_model(name, ("a", "b")),
        lambda name: stored_spec(parse(name)),
        lambda name: crossstage.profile(name, 64),
    ]
    for read in readers:
        with pytest.raises(WeightsError, match=r"m\.safetensors: ") as caught:
            read(str(path))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000


def test_tensors_of_another_model_are_refused_where_a_training_starts_as_well(tmp_path):
    state = load_file(START)
    name = next(name for name in state if name.endswith("weight") and state[name].dim() == 4)
    state[name] = state[name][:1].clone()
    spec, _ = read_model(START)
    write_model(tmp_path / "m.safetensors", state, spec)
    with pytest.raises(WeightsError, match=rf"{name} is float .*; expected float"):
        start_model(tmp_path / "m.safetensors", ("a", "b"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    spec, state = read_model(START)
    name = next(iter(state))
    state[name] = state[name].clone()
    state[name].view(-1)[0] = value
    write_model(tmp_path / "m.safetensors", state, spec)
    with pytest.raises(WeightsError, match=f"{name} holds NaN or infinity"):
        crossstage.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_found_by_the_hash(tmp_path, seed):
    spec, state = read_model(START)
    path = tmp_path / "m.safetensors"
    write_model(path, state, spec, hashed=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in read_model(path)[1].items())
    content = bytearray(path.read_bytes())
    place = int(np.random.default_rng(seed).integers(len(content) // 2, len(content)))
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged|NaN"):
        crossstage.load(path)


def test_a_file_without_a_hash_has_the_bytes_that_it_always_had(tmp_path):
    spec, state = read_model(START)
    assert HASH not in spec.to_json()
    write_model(tmp_path / "m.safetensors", state, spec)
    assert HASH.encode() not in (tmp_path / "m.safetensors").read_bytes()[:20_000]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("x.weights", "Darknet's weights are loaded by their network: --model x.cfg"),
        ("y.weights", "--model its .cfg"),
        ("x.pt", "crossstage import FILE --as NAME"),
        ("x.PTH", "crossstage import FILE --as NAME"),
        ("x.onnx.data", "it holds the weights of x.onnx, which is the file to name"),
        ("x.torchscript", "name the model that it was exported from"),
    ],
)
def test_a_file_of_another_kind_says_what_to_do(name, hint, tmp_path, capsys):
    (tmp_path / "x.cfg").write_text("[net]\n")
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00." * 20)
    photo = Path(__file__).parents[2] / "examples" / "photos" / "000000009483.jpg"
    assert main(["predict", str(photo), "--model", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "not a safetensors file" in told[0] and hint in told[0]


def test_info_tells_what_a_file_is(capsys):
    assert main(["info", str(START)]) == 0
    told = capsys.readouterr().out
    assert "cspdarknet53_tiny_yolo" in told and "class names" in told
