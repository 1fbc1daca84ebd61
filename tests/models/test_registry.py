"""Names, settings and divisors of composed detectors."""

from dataclasses import dataclass

import pytest
import torch

import crossstage
from crossstage.errors import ConfigError
from crossstage.models.heads import HEADS
from crossstage.models.heads.yolo import YoloConfig
from crossstage.models.published import DETECTORS
from crossstage.models.registry import REGISTRY, find, lookup


def test_names_with_and_without_a_head_are_one_composition():
    short, long = (crossstage.create_model(name, num_classes=3) for name in ("resnet10_efm", "resnet10_efm_yolo"))
    assert list(short.state_dict()) == list(long.state_dict())
    assert short.head.row == long.head.row


def test_names_of_the_table_come_before_compositions():
    assert lookup("csppeleenet_efm") == REGISTRY["csppeleenet_efm"]
    assert "csppeleenet_efm" in DETECTORS
    assert lookup("resnet10_no_neck") is None and lookup("resnet10_efm_no_head") is None


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean csppeleenet_ref or csppeleenet_efm"):
        find("csppeleenet_emf")


def test_a_setting_that_two_parts_have_is_refused(monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Ambiguous(YoloConfig):
        neck_act: str = "relu"

    monkeypatch.setitem(HEADS, "ambiguous", Ambiguous())
    assert crossstage.create_model("resnet10_efm_ambiguous", num_classes=2).head.num_classes == 2
    with pytest.raises(ConfigError, match="its neck and its head have a setting 'neck_act' both"):
        crossstage.create_model("resnet10_efm_ambiguous", neck_act="mish")


def test_sides_are_multiples_of_any_divisor():
    detector = crossstage.create_model("cspdarknet53_tiny_yolo", num_classes=2, size_divisor=1)
    assert detector.size_divisor == 1
    assert crossstage.create_model("cspdarknet53_tiny_yolo", num_classes=2).size_divisor == 32
    with pytest.raises(ConfigError, match="multiple of 32"):
        list(
            crossstage.create_model("cspdarknet53_tiny_yolo").predict(torch.zeros(40, 40, 3).byte().numpy(), imgsz=100)
        )
