"""The soak in small: what runs for hours there runs for a moment here."""

import random
import time

import pytest

from research.soak import faults, fuzz, kills, steady
from research.soak.mutate import mutated
from research.soak.readers import READERS

QUICK = ("coco", "voc", "yolo", "csv", "labelme", "cvat", "label studio", "names", "recipe", "exported header")


def test_harm_is_seeded_and_does_something():
    content = b'{"images": [{"id": 1, "width": 24}], "annotations": []}'
    made = [mutated(content, random.Random(seed)) for seed in range(200)]
    assert made == [mutated(content, random.Random(seed)) for seed in range(200)]
    assert len(set(made)) > 150 and sum(one == content for one in made) < 20


@pytest.mark.parametrize("name", QUICK)
def test_harmed_input_is_read_or_refused(name, tmp_path):
    reader = READERS[name]
    for file in reader.make(tmp_path / "sound"):
        reader.read(tmp_path / "sound", file)  # what is sound is read
    found = [fuzz.try_once(reader, seed, tmp_path) for seed in range(12)]
    assert not [message for what, message in found if what == "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READERS))
def test_harmed_input_is_read_or_refused_by_every_reader(name):
    outcome = fuzz.try_reader(name, range(500, 530))
    assert outcome.failures == []
    assert sum(outcome.counts.values()) == 30


def _reading(folder, harmed):
    """A reader with every fault that the harness looks for."""
    text = harmed.read_text()
    if "1" in text:
        raise ValueError("not ours")
    return text


def test_what_is_not_our_error_is_told_with_its_place(tmp_path, monkeypatch):
    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.txt").write_text("1111111111")
        return [folder / "a.txt"]

    reader = fuzz.Reader("wrong", make, _reading)
    found = [fuzz.try_once(reader, seed, tmp_path) for seed in range(20)]
    assert ("failed" in {what for what, _ in found}) and any("ValueError" in message for _, message in found)
    monkeypatch.setattr(fuzz, "SECONDS", -1)
    assert fuzz.try_once(reader, 0, tmp_path)[0] == "failed"


def test_messages_are_looked_at():
    assert not fuzz._wrong_message("a.json: no images")
    assert "terminal" in fuzz._wrong_message("a\x1b[31m.json: no images")
    assert "characters" in fuzz._wrong_message("x" * 5000)


@pytest.mark.slow
def test_predictions_hold_nothing(tmp_path):
    row = steady.predict_many(tmp_path, steady.WARM + 200)
    assert row.failures == [] and row.tried == steady.WARM + 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "count"), [(kills.kill_exports, 2), (kills.kill_predictions, 2), (kills.stop_predictions, 2)]
)
def test_kills_lose_nothing(part, count, tmp_path):
    row = part(tmp_path, count, int(time.time()))  # at moments that no run before has had
    assert row.failures == [] and row.tried >= count


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path):
    row = kills.kill_trainings(tmp_path, 2, int(time.time()))
    assert row.failures == [] and row.tried >= 2


@pytest.mark.slow
def test_disks_that_take_nothing(tmp_path):
    assert faults.fill_disks(tmp_path).failures == []


@pytest.mark.slow
def test_runs_side_by_side(tmp_path):
    assert faults.run_together(tmp_path, 1).failures == []
