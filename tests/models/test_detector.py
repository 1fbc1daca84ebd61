"""The detector as a module: traced, exported and trained like any other."""

import pytest
import torch

import crossstage
from crossstage.errors import ConfigError
from crossstage.nn import Partial


@pytest.fixture(scope="module")
def detector():
    return crossstage.load("cspdarknet53_tiny_yolo.coco")


@torch.no_grad()
def test_forward_can_be_exported(detector):
    x = torch.rand(1, 3, 64, 96)
    program = torch.export.export(detector, (x,))
    torch.testing.assert_close(program.module()(x), detector(x))


def test_batches_give_what_single_images_give(detector):
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together, alone = detector(x), [detector(image.unsqueeze(0)) for image in x]
    for name, raw in together.items():
        torch.testing.assert_close(raw, torch.cat([maps[name] for maps in alone]), rtol=1e-4, atol=1e-4)


def test_every_parameter_learns():
    model = crossstage.create_model("cspdarknet53_tiny_yolo", class_names=["a", "b"], act="mish")
    sum(raw.square().mean() for raw in model(torch.rand(2, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    "partial", [None, Partial(0.25, "last", "slice"), Partial(0.5, "both", "project"), Partial(0.5, "first", "project")]
)
def test_the_backbone_may_be_made_partial_otherwise(partial):
    model = crossstage.create_model("cspdarknet53_tiny_yolo", num_classes=3, partial=partial)
    assert [tuple(raw.shape) for raw in model(torch.rand(1, 3, 64, 64)).values()] == [(1, 24, 4, 4), (1, 24, 2, 2)]


def test_names_must_fit_the_classes():
    with pytest.raises(ConfigError, match="2 class names for num_classes=3"):
        crossstage.create_model("cspdarknet53_tiny_yolo", num_classes=3, class_names=["a", "b"])


def test_predicting_leaves_training_weights_alone(detector):
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    detector.train()
    list(detector.predict(torch.zeros(40, 40, 3, dtype=torch.uint8).numpy()))
    assert not detector.training
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
