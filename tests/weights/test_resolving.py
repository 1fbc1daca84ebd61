"""Networks by name without their weights; and what a user's file can do wrong."""

import json
import socket
import time
from pathlib import Path

import pytest
from torch import nn

import crossstage
from crossstage.cli import main
from crossstage.errors import ConfigError, DataError
from crossstage.weights.resolving import resolve
from tests.darknet import nets as darknet_nets

UNKNOWN = {
    "timm-network:nonexistent": "timm has no network 'nonexistent'; timm.list_models() lists them",
    "timm-network:resnet51": "timm has no network 'resnet51'; did you mean .*resnet50",
    "torchvision-network:nonexistent": "has no network 'nonexistent'; torchvision.models.list_models() lists them",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_networks_of_other_libraries_come_with_a_hint(name):
    pytest.importorskip(name.partition("-")[0])
    with pytest.raises(ConfigError, match=UNKNOWN[name].replace("()", r"\(\)")):
        resolve(name)


OWN = """\
from torch import nn
from width import WIDTH

def build():
    return nn.Sequential(nn.Conv2d(1, WIDTH, 3), nn.ReLU())

def huge():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 10_000_000))

def fails():
    width = WIDTH - 4
    return nn.Conv2d(3, 8 // width, 3)

def number():
    return 3

class ByValue(nn.Module):
    def forward(self, x):
        return x if x.sum().item() > 0 else 2 * x

module = nn.ReLU()
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "width.py").write_text("WIDTH = 4\n")
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked for something")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("csppeleenet", (3, 224, 224), 2_845_480),
        ("cspdarknet53_tiny_yolo.coco", (3, 416, 416), 6_056_606),
        ("csppeleenet_prn", (3, 416, 416), None),
        ("vovnet27_slim_prn_yolo", (3, 416, 416), None),
        ("yolov3_tiny.coco", (3, 416, 416), 8_852_366),
        ("torchvision:resnet18", (3, 224, 224), 11_689_512),
        ("torchvision:resnet50.IMAGENET1K_V2", (3, 224, 224), 25_557_032),
        ("timm:cspresnet50", (3, 256, 256), 21_616_168),
        ("torchvision-network:resnet18", (3, 224, 224), 11_689_512),
        ("torchvision-network:resnet50.IMAGENET1K_V2", (3, 224, 224), 25_557_032),
        ("torchvision-network:inception_v3", (3, 299, 299), 27_161_264),
        ("torchvision-network:deeplabv3_resnet50", (3, 520, 520), None),
        ("timm-network:cspresnet50", (3, 256, 256), 21_616_168),
        ("timm-network:vit_tiny_patch16_224.augreg_in21k_ft_in1k", (3, 224, 224), 5_717_416),
    ],
)
def test_a_name_gives_a_network_without_weights(name, shape, parameters):
    found = resolve(name)
    assert (found.name, found.input_shape) == (name, shape)
    assert not found.module.training
    assert {tensor.device.type for tensor in found.module.parameters()} == {"meta"}
    assert parameters in (None, sum(tensor.numel() for tensor in found.module.parameters()))


def test_a_darknet_file_costs_what_the_native_network_costs(tmp_path):
    (tmp_path / "tiny.cfg").write_text(darknet_nets.yolov4_tiny(96, 64))
    written, native = crossstage.profile(tmp_path / "tiny.cfg"), crossstage.profile("cspdarknet53_tiny_yolo", (64, 96))
    assert written.input_shape == (1, 3, 64, 96)
    assert (written.flops, written.parameters) == (native.flops, native.parameters)


def test_the_papers_largest_detector_is_counted_in_less_than_two_seconds(tmp_path):
    (tmp_path / "csresnext50-panet-spp.cfg").write_text(
        darknet_nets.panet_spp(darknet_nets.cspresnext50(608), (38, 65))
    )
    for name in ("cspresnext50_panet_spp", tmp_path / "csresnext50-panet-spp.cfg"):
        start = time.process_time()
        found = crossstage.profile(name, 608)
        assert time.process_time() - start < 2
        assert round(found.darknet_bflops, 1) == 100.6  # the paper's table 4


def test_a_users_function_and_its_neighbours(own):
    found = crossstage.profile(f"{own}:build", batch=2)
    assert found.input_shape == (2, 1, 224, 224)
    assert found.parameters == 40
    assert crossstage.profile(f"{own}:module", (5, 7)).input_shape == (1, 3, 5, 7)
    assert crossstage.profile(f"{own}:ByValue", (3, 5, 7)).layers[0].operator == "sum"


def test_nothing_is_allocated(own):
    """Six terabytes of weights."""
    assert crossstage.profile(f"{own}:huge").parameters == 150_528 * 10_000_000 + 10_000_000


def test_a_users_faults_are_named_with_their_line(own, tmp_path):
    (tmp_path / "syntax.py").write_text("x = 1\ndef build(:\n")
    (tmp_path / "quits.py").write_text("import sys\n\nsys.exit(3)\n")
    for name, message in {
        f"{own}:fails": f"{own}:12: ZeroDivisionError: ",
        f"{own}:number": f"{own}: number gives a int; expected a torch.nn.Module",
        f"{own}:biuld": f"{own}: has no 'biuld'; expected one of build, huge, fails, number, ByValue",
        f"{own}": "expected the name of a function too",
        f"{tmp_path}/none.py:build": f"{tmp_path}/none.py: no such file",
        f"{tmp_path}/syntax.py:build": f"{tmp_path}/syntax.py:2: SyntaxError",
        f"{tmp_path}/quits.py:build": f"{tmp_path}/quits.py:3: SystemExit: 3",
        "csppeleenett": "did you mean csppeleenet",
        "timm:cspresnet51": "did you mean timm:cspresnet50",
        "timm:vit_tiny_patch16_224": "timm's own network is spelled timm-network:vit_tiny_patch16_224",
        "timm-network:cspresnet51": "did you mean cspresnet50",
        "torchvision-network:resnet19": "did you mean resnet18",
        f"{tmp_path}/none.cfg": "none.cfg",
    }.items():
        with pytest.raises(ConfigError) as raised:
            resolve(name)
        assert message in str(raised.value)


def test_an_input_that_does_not_fit_is_refused(own):
    with pytest.raises(ConfigError, match=r"module '0' cannot run on an input of \(1, 7, 5, 5\)"):
        crossstage.profile(f"{own}:build", (7, 5, 5))
    with pytest.raises(ConfigError, match="sizes of at least 1"):
        crossstage.profile("csppeleenet", 0)
    with pytest.raises(ConfigError, match="sizes of at least 1"):
        crossstage.profile("csppeleenet", batch=0)


def test_the_command_prints_and_writes(own, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("p.json", "p.csv", "p.png")]
    assert main(["profile", "cspdarknet53_tiny_yolo", "--imgsz", "64", "--layers", "--write", *files]) == 0
    printed = capsys.readouterr().out
    found = crossstage.profile("cspdarknet53_tiny_yolo", 64)
    assert f"{found.parameters:,}" in printed and "backbone.stem.0.conv" in printed
    told = json.loads(Path(files[0]).read_text())
    assert told["totals"]["flops"] == found.flops == sum(layer["flops"] for layer in told["layers"])
    rows = Path(files[1]).read_text().splitlines()
    assert len(rows) == 1 + len(found.layers)
    assert rows[1].startswith("backbone.stem.0.conv,convolution,convolution,1x3x64x64,1x32x32x32,3x3,1,")
    assert Path(files[2]).read_bytes().startswith(b"\x89PNG")
    assert main(["profile", f"{own}:fails"]) == 2
    assert "own.py:12: ZeroDivisionError" in capsys.readouterr().err


def test_a_file_of_another_kind_or_place_is_refused(tmp_path):
    found = crossstage.profile(nn.Conv2d(3, 3, 1), 4)
    with pytest.raises(ConfigError, match=r"\.txt; expected \.json, \.csv, \.png"):
        found.save(tmp_path / "p.txt")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        found.save(tmp_path / "file" / "p.json")
