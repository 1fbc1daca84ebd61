"""Settings of every head's loss: what is no number in range is refused by name, whoever wrote the head."""

import math
from dataclasses import fields

import pytest

from crossstage.errors import ConfigError
from crossstage.models.heads import HEADS
from crossstage.models.heads.base import with_loss


def numbers() -> list[tuple[str, str]]:
    """The heads that have a loss of settings, with the name of each setting that is one number."""
    found = []
    for name, row in HEADS.items():
        loss = getattr(row, "loss", None)
        for field in fields(loss) if loss is not None else ():
            value = getattr(loss, field.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found.append((name, field.name))
    return found


@pytest.mark.parametrize(("head", "setting"), numbers())
def test_what_is_no_number_in_range_is_refused_by_its_name(head, setting):
    for value in (-1, math.nan, math.inf, "three", None, True, [1.0]):
        with pytest.raises(ConfigError, match=setting):
            with_loss(HEADS[head], {setting: value})


@pytest.mark.parametrize(
    ("head", "setting"), [("yolox", "top"), ("rtmdet", "top"), ("yolov9", "candidates"), ("zero", "top")]
)
def test_counts_are_whole(head, setting):
    with pytest.raises(ConfigError, match=rf"loss.{setting} is 2.5; expected a whole number"):
        with_loss(HEADS[head], {setting: 2.5})
    assert with_loss(HEADS[head], {setting: 2}).loss != HEADS[head].loss
