"""Conversions as files of source, and the command that writes them."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crossstage import Partial
from crossstage.cli import main
from crossstage.csp import carry_out, make_plan, origin_of, write_source
from crossstage.csp.source import _in_docstring
from tests.csp import nets

EXAMPLE = Path(__file__).parents[2] / "examples" / "small_cnn.py"
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def opened(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("make", ["resnext", "densenet", "one_bottleneck", "vgg"])
@pytest.mark.parametrize("partial", [Partial(0.25, "last", "slice"), Partial()], ids=["last-slice", "both-project"])
def test_the_file_computes_what_to_partial_does(make, partial, tmp_path):
    plain = getattr(nets, make)().eval()
    plan = make_plan(plain, partial, example_input=IMAGES)
    converted, report = carry_out(plain, plan)
    file = tmp_path / "partial.py"
    origin = origin_of(f"{nets.__file__}:{make}", file)
    file.write_text(write_source(plain, plan, report, origin, "A test."))
    written = opened(file)
    network = written.build().eval()
    assert list(network.state_dict()) == list(converted.state_dict())
    network.load_state_dict(converted.state_dict())
    torch.testing.assert_close(network(IMAGES), converted(IMAGES), rtol=0, atol=0)
    ours = converted.state_dict()
    for name, tensor in written.convert(plain).state_dict().items():  # weights are cut alike
        assert name in report.new or torch.equal(tensor, ours[name])


def test_alike_layers_are_narrowed_in_a_loop(tmp_path):
    plain = nets.densenet().eval()
    plan = make_plan(plain, Partial(), example_input=IMAGES)
    source = write_source(plain, plan, carry_out(plain, plan)[1], origin_of("darknet53", tmp_path), "A test.")
    assert (
        "for number, layer in enumerate(layers):\n        narrow(layer.norm, [(16, 32), *number * [(8, 16)]])" in source
    )


@pytest.mark.slow
def test_the_command_writes_a_file_that_runs_alone(tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text(EXAMPLE.read_text())
    file = tmp_path / "partial.py"
    arguments = [f"{own}:small_cnn", "--gamma", ".5", "--fusion", "both", "--imgsz", "64", "-o", str(file)]
    assert main(["convert", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "stage2.0..2" in printed and "network" in printed and str(file) in printed
    assert "from own import small_cnn" in file.read_text()
    run = subprocess.run([sys.executable, file.name], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "CrossStage" in run.stdout
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", file.name],
        cwd=tmp_path,
        check=False,
    )
    assert checked.returncode == 0


def test_the_command_refuses_without_a_traceback(tmp_path, capsys):
    own = f"{nets.__file__}:Written"
    assert main(["convert", own, "--imgsz", "64", "-o", str(tmp_path / "partial.py")]) == 2
    assert "Written has no stages" in capsys.readouterr().err
    assert not (tmp_path / "partial.py").exists()


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("timm-network:resnet26d.bt_in1k", 'timm.create_model("resnet26d")'),
        ("torchvision-network:resnet18", 'torchvision.models.get_model("resnet18", weights=None)'),
        ("torchvision:resnet18", 'crossstage.create_model("resnet18_torchvision")'),
        ("timm:ese_vovnet39b", 'crossstage.create_model("vovnet39_v2", attend="last")'),
        ("darknet53", 'crossstage.create_model("darknet53")'),
        ("yolov3.cfg", 'resolve("yolov3.cfg", "cpu").module'),
    ],
)
def test_the_file_makes_the_plain_network_as_a_person_would(name, expression, tmp_path):
    assert origin_of(name, tmp_path / "partial.py").expression == expression


@pytest.mark.parametrize("name", ['quo"""te', "back\\U0001slash", "{brace}", "a\nb"])
def test_a_path_is_text_in_the_file_that_is_written(name):
    """It injects nothing, and is no syntax error."""
    folder = Path("/x") / name
    written = folder.parent / "out" / "made.py"
    title = _in_docstring(f"{folder}/n.py:build as a cross stage partial network.")
    assert ast.literal_eval(f'"""{title}"""').startswith(f"{folder}/n.py:build")
    call = ast.parse(origin_of(f"{folder}/net.cfg", written).expression, mode="eval").body.value
    assert ast.literal_eval(call.args[0]) == f"{folder}/net.cfg"
