"""torchvision's, timm's and detectron2's tensors in our networks: the same weights give the same outputs."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision import models

import crossstage
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.registry import find
from crossstage.nn import SeparableConv
from crossstage.structures import Preprocessing
from crossstage.weights.from_peer import from_peer
from crossstage.weights.loading import create_model
from crossstage.weights.peers import LIBRARIES, PEERS, peers
from crossstage.weights.peers.from_detectron2 import from_detectron2
from crossstage.weights.starting import start_model
from tests.darknet.nets import randomize
from tests.sweep import sweep

timm = pytest.importorskip("timm", reason="needs the extra crossstage[timm]")


def assert_same(ours: nn.Module, theirs: nn.Module, size: int = 64) -> None:
    x = torch.rand(2, 3, size, size + 32)
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def kind_of_peer(name: str) -> object:
    return PEERS[name].adapt


def classifiers(library: str) -> list[str]:
    return [name for name in peers() if name.startswith(f"{library}:") and find(PEERS[name].model).task == "classify"]


@pytest.mark.parametrize("name", sweep(classifiers("timm"), kind_of_peer))
def test_timms_weights_give_timms_outputs(name):
    theirs = randomize(timm.create_model(name.removeprefix("timm:"), num_classes=7))
    assert_same(from_peer(name, theirs.state_dict()), theirs)


@pytest.mark.parametrize("name", sweep(classifiers("torchvision"), kind_of_peer))
def test_torchvisions_weights_give_torchvisions_outputs(name):
    theirs = randomize(models.get_model(name.removeprefix("torchvision:"), num_classes=7))
    assert_same(from_peer(name, theirs.state_dict()), theirs)


def test_the_order_of_tensors_in_a_file_does_not_matter():
    theirs = randomize(models.mobilenet_v2(num_classes=3))
    state = dict(sorted(theirs.state_dict().items(), reverse=True))
    assert_same(from_peer("torchvision:mobilenet_v2", state), theirs)


def detectron2_names(name: str) -> dict[str, torch.Tensor]:
    """A network's tensors under the names of youngwanLEE/vovnet-detectron2, whose frozen norms count no batches."""
    model = randomize(create_model(name))
    plain = {"conv": "conv", "bn": "norm"}
    separable = {"depthwise": "dw_conv3x3", "conv": "pw_conv1x1", "bn": "pw_norm"}
    separated = {path for path, module in model.backbone.named_modules() if isinstance(module, SeparableConv)}
    renamed = {}
    for key, tensor in model.backbone.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        path, last = key.rsplit(".", 1)
        called = separable if path.rpartition(".")[0] in separated else plain
        if match := re.fullmatch(r"stem\.(\d+)\.(.+)", path):
            new = f"stem.stem_{int(match[1]) + 1}/{called[match[2]]}"
        else:
            stage, module, rest = re.fullmatch(r"stages\.(\d+)\.1\.(\d+)\.(.+)", path).groups()
            osa = f"OSA{int(stage) + 2}_{int(module) + 1}"
            kind, *parts = rest.split(".")
            if kind == "layers":
                inner = f"layers.{parts[0]}.{osa}_{parts[0]}/{called[parts[1]]}"
            elif kind == "reduce":
                inner = f"conv_reduction.{osa}_reduction_0/{plain[parts[0]]}"
            elif kind == "aggregate":
                inner = f"concat.{osa}_concat/{plain[parts[0]]}"
            else:
                inner = "ese.fc"
            new = f"stage{int(stage) + 2}.{osa}.{inner}"
        renamed[f"backbone.bottom_up.{new}.{last}"] = tensor
    renamed["backbone.fpn_lateral2.weight"] = torch.zeros(1)
    return renamed, model


@pytest.mark.parametrize("name", ["vovnet39_v2", "vovnet19_dw_v2", "vovnet19_slim_dw_v2"])
def test_detectron2_checkpoints_of_vovnet_map(name):
    state, model = detectron2_names(name)
    assert "backbone.bottom_up.stage2.OSA2_1.layers.0.OSA2_1_0/" in " ".join(state)
    loaded = from_detectron2(name, state)
    for key, tensor in loaded.backbone.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, model.backbone.state_dict()[key])


def test_a_tensor_of_the_wrong_network_is_named():
    state = models.resnet18(num_classes=3).state_dict()
    with pytest.raises(WeightsError, match=r"torchvision:resnet34: backbone\.stages\.0\.2\.body"):
        from_peer("torchvision:resnet34", state)
    with pytest.raises(WeightsError, match=r"tensor 'conv1.weight' has no place"):
        from_peer("timm:cspresnet50", state)
    with pytest.raises(WeightsError, match="no layer among the tensors that tells the number of classes"):
        from_peer("timm:cspresnet50", {})
    with pytest.raises(WeightsError, match="0 layers; expected 104"):
        from_peer("torchvision:mobilenet_v2", {"classifier.1.weight": torch.zeros(3, 1280)})
    with pytest.raises(ConfigError, match="'timm:vit' has no twin here"):
        from_peer("timm:vit", state)


def test_load_fetches_timms_pretrained_weights(monkeypatch):
    theirs = randomize(timm.create_model("cspresnet50"))
    asked = []

    def fetched(name: str, *, pretrained: bool) -> nn.Module:  # what the hub would give, which cannot be reached here
        asked.append((name, pretrained))
        return theirs

    monkeypatch.setattr(timm, "create_model", fetched)
    model = crossstage.load("timm:cspresnet50.ra_in1k")
    assert asked == [("cspresnet50.ra_in1k", True)]
    assert_same(model, theirs)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert model.preprocessing == Preprocessing((256, 256), "crop", *imagenet, crop=0.887)
    grey = model.preprocessing.normalise(torch.full((1, 3, 1, 1), 0.5)).flatten()
    torch.testing.assert_close(grey, torch.tensor([0.0655, 0.1964, 0.4178]), rtol=0, atol=1e-4)


def test_load_fetches_torchvisions_pretrained_weights(monkeypatch):
    theirs = randomize(models.resnet18())
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda self, **_: theirs.state_dict())
    assert_same(crossstage.load("torchvision:resnet18.IMAGENET1K_V1"), theirs)
    loaded = crossstage.load("torchvision:resnet18")
    assert_same(loaded, theirs)
    assert loaded.preprocessing.size == (224, 224) and loaded.preprocessing.crop == 0.875


def test_unknown_tags_and_failed_downloads_are_told(monkeypatch):
    with pytest.raises(
        ConfigError, match=r"timm has no weights 'cspresnet50\.x'; expected one of cspresnet50\.ra_in1k"
    ):
        crossstage.load("timm:cspresnet50.x")
    with pytest.raises(ConfigError, match="timm has no weights"):
        crossstage.load("timm:vovnet39a")
    with pytest.raises(ConfigError, match="no weights 'x' of resnet18; expected one of IMAGENET1K_V1"):
        crossstage.load("torchvision:resnet18.x")

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"timm:cspresnet50\.ra_in1k: its weights cannot be fetched: no route"):
        crossstage.load("timm:cspresnet50.ra_in1k")


def test_a_training_starts_from_timms_weights(monkeypatch):
    torch.manual_seed(0)
    made = timm.create_model("resnet18")
    fetch = lambda *_: (made.state_dict(), Preprocessing((224, 224)))  # noqa: E731
    monkeypatch.setitem(LIBRARIES, "timm", replace(LIBRARIES["timm"], fetch=fetch))
    started = start_model("timm:resnet18.a1_in1k", ("cat", "dog"), imgsz=64)
    assert started.spec.name == "resnet18_torchvision"
    assert started.spec.preprocessing == Preprocessing((64, 64))
    assert started.transfer.fresh == ("fc.weight", "fc.bias")
    assert torch.equal(started.model.backbone.state_dict()["stem.0.conv.weight"], made.state_dict()["conv1.weight"])
