"""Stages overlap in bounded memory and in order; errors and early ends leave no thread behind."""

import gc
import itertools
import random
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from contextlib import closing
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from PIL import Image
from supervision import Detections

from crossstage.errors import DataError
from crossstage.inference.classify import ClassPredictor
from crossstage.inference.images import load_image, load_reduced
from crossstage.inference.pipeline import Behind, ahead
from crossstage.inference.predictor import Prediction, Predictor, StageTimes
from crossstage.inference.preprocessing import prepare
from crossstage.inference.run import RunningMedian, Summary, predict_to_files
from crossstage.inference.sources import SourceImage, Unreadable
from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing


class BrightBox(torch.nn.Module):
    """Finds the box around what is nearly white in each image; remembers how many shared a pass."""

    class_names = ("box",)
    size_divisor = 32
    nms = NMS()
    preprocessing = Preprocessing((64, 96))

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, images):
        self.passes.append(len(images))
        return [images]

    def detect(self, raw, image_size, nms=None, sizes=None):
        return [self._box(image) for image in raw[0]]

    @staticmethod
    def _box(image):
        rows, columns = torch.where(image.amin(dim=0) > 0.9)
        corners = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        return Instances(corners.view(1, 4), image.mean().view(1), torch.zeros(1, dtype=torch.int64))


class Brightness(torch.nn.Module):
    class_names = ("dark", "bright")
    preprocessing = Preprocessing((16, 16), "crop")
    size_divisor = 1

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([1 - mean, mean], dim=1)


def _boxed(number, size=(120, 180)):
    image = np.full((*size, 3), 40, np.uint8)
    image[10 + number : 60 + number, 20 + number : 90] = 255
    return image


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(7):
        Image.fromarray(_boxed(number)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "3b.png").write_bytes(b"")
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    gc.collect()
    end = time.monotonic() + 2
    while (left := set(threading.enumerate()) - before) and time.monotonic() < end:
        time.sleep(0.01)
    assert not {thread.name for thread in left}


def test_order_is_kept_whatever_the_delays():
    delays = random.Random(0)
    waits = [delays.uniform(0, 0.02) for _ in range(40)]

    def work(number):
        time.sleep(waits[number])
        return number

    assert list(ahead(iter(range(40)), work, depth=8, workers=4)) == list(range(40))


def test_stages_overlap():
    """20 items of 10 ms to draw, 2 x 10 ms to work on by four threads, 10 ms to use: 800 ms one after the other."""

    def drawn():
        for number in range(20):
            time.sleep(0.01)
            yield number

    def work(number):
        time.sleep(0.02)
        return number

    start = time.perf_counter()
    with Behind(lambda _: time.sleep(0.01), lambda: None) as behind:
        for number in ahead(drawn(), work, depth=8, workers=4):
            time.sleep(0.01)
            behind.put(number)
    assert 0.2 < time.perf_counter() - start < 0.55


@pytest.mark.parametrize("depth", [1, 5])
def test_a_slow_consumer_holds_back_what_is_before_it(depth):
    drawn = itertools.count()
    results = ahead(drawn, lambda number: number, depth=depth, workers=2)
    with closing(results):
        for taken in range(1, 4):
            next(results)
            time.sleep(0.05)
            assert next(drawn) - taken - (taken - 1) <= depth  # this very check draws one each time


def test_a_slow_writer_holds_back_what_is_before_it():
    going = threading.Event()
    handed = 0

    def hand_over(behind):
        nonlocal handed
        for number in range(20):
            behind.put(number)
            handed += 1

    with Behind(lambda _: going.wait(5) and None, lambda: None, depth=3) as behind:
        caller = threading.Thread(target=hand_over, args=(behind,))
        caller.start()
        time.sleep(0.1)
        assert handed == 3
        going.set()
        caller.join()
    assert handed == 20


def test_an_error_of_a_stage_arrives_in_its_turn():
    def drawn():
        yield from (1, 2)
        raise OSError("unplugged")

    results = ahead(drawn(), lambda number: 2 // (2 - number), depth=4)
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)
    results = ahead(drawn(), str, depth=4)
    assert [next(results), next(results)] == ["1", "2"]
    with pytest.raises(OSError, match="unplugged"):
        next(results)


def test_an_error_of_the_network_arrives(folder):
    class Failing(BrightBox):
        def forward(self, images):
            if len(self.passes) == 2:
                raise RuntimeError("out of luck")
            return super().forward(images)

    results = Predictor(Failing()).predict(folder)
    assert len(list(itertools.islice(results, 2))) == 2
    with pytest.raises(RuntimeError, match="out of luck"):
        next(results)


def test_an_error_of_writing_arrives_before_the_source_ends(tmp_path):
    def full(_):
        raise DataError("disk full")

    finished = []
    with pytest.raises(DataError, match="disk full"), Behind(full, lambda: finished.append(1), depth=2) as behind:
        for _ in range(50):
            behind.put(0)
        pytest.fail("50 items later nobody has been told")
    assert finished == [1]
    with pytest.raises(DataError, match="disk full"), Behind(full, lambda: None) as behind:
        behind.put(0)


def test_closing_early_ends_threads_and_the_source():
    closed = threading.Event()

    def images():
        try:
            while True:
                yield _boxed(0)
        finally:
            closed.set()

    results = Predictor(BrightBox()).predict(images())
    next(results)
    start = time.perf_counter()
    results.close()  # type: ignore[attr-defined]
    assert closed.wait(1) and time.perf_counter() - start < 1


def test_a_program_may_end_in_the_middle(folder):
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.inference.test_pipeline import BrightBox\nfrom crossstage.inference.predictor import Predictor\n"
        f"results = Predictor(BrightBox()).predict({str(folder)!r}); print(next(results).image.frame)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None\n" and done.stderr == ""


def test_nothing_is_read_before_it_is_asked_for():
    def images():
        pytest.fail("read")
        yield

    Predictor(BrightBox()).predict(images())


def test_a_generator_may_fill_the_same_array_again():
    def images():
        image = np.empty((120, 180, 3), np.uint8)
        for number in range(6):
            image[:] = _boxed(number)
            yield image

    found = [entry.detections.xyxy for entry in Predictor(BrightBox()).predict(images())]
    expected = [entry.detections.xyxy for entry in Predictor(BrightBox()).predict([_boxed(n) for n in range(6)])]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_results_are_those_of_one_image_at_a_time(folder, batch):
    model = BrightBox()
    entries = list(Predictor(model, batch=batch).predict(folder))
    assert [type(entry) for entry in entries] == [Prediction] * 4 + [Unreadable] + [Prediction] * 3
    assert model.passes == {1: [1] * 7, 3: [3, 2, 2], 20: [7]}[batch]
    alone = Predictor(BrightBox())
    for entry in entries:
        if isinstance(entry, Prediction):
            expected = alone(SourceImage(entry.image.name, PurePath(), load_image(entry.image.name), None, None, 0))
            assert entry.detections == expected.detections
            np.testing.assert_array_equal(entry.image.pixels, expected.image.pixels)


@pytest.mark.parametrize("batch", [1, 3])
def test_classes_are_those_of_one_image_at_a_time(folder, batch):
    predictor = ClassPredictor(Brightness(), batch=batch)
    found = [entry for entry in predictor.predict(folder) if not isinstance(entry, Unreadable)]
    assert len(found) == 7
    for entry in found:
        assert entry.probabilities == predictor.classify(load_image(entry.source)).probabilities


@pytest.mark.parametrize("batch", [1, 3])
def test_passes_side_by_side_keep_the_order(folder, batch):
    alone = list(Predictor(BrightBox(), batch=batch).predict(folder))
    model = BrightBox()
    beside = list(Predictor(model, batch=batch, streams=3).predict(folder))
    assert sum(model.passes) == 7 and [type(entry) for entry in beside] == [type(entry) for entry in alone]
    for found, wanted in zip(beside, alone, strict=True):
        assert isinstance(found, Unreadable) or found.detections == wanted.detections  # type: ignore[union-attr]


def test_passes_side_by_side_overlap_and_share_torchs_threads(folder):
    meeting = threading.Barrier(2)
    inner = []

    class Meeting(BrightBox):
        def forward(self, images):
            meeting.wait(5)
            inner.append(torch.get_num_threads())
            return super().forward(images)

    images = [_boxed(0)] * 8
    assert len(list(Predictor(Meeting(), streams=2).predict(images))) == 8
    assert set(inner) == {max(1, torch.get_num_threads() // 2)}


def test_an_error_of_a_pass_beside_others_arrives(folder):
    class Failing(BrightBox):
        def forward(self, images):
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        list(Predictor(Failing(), streams=2).predict(folder))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("size", "scale"), [((640, 960), 8), ((250, 380), 2), ((127, 960), 1)])
def test_a_large_jpeg_is_read_small_and_its_boxes_are_of_the_whole(orientation, size, scale, tmp_path):
    stored = Image.fromarray(_boxed(0, size))
    upright = stored if orientation == 1 else stored.transpose(Image.Transpose.ROTATE_270)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "p.jpg", quality=95, exif=exif)
    target = (64, 96) if orientation == 1 else (96, 64)
    image, whole = load_reduced(tmp_path / "p.jpg", target)
    assert whole == upright.size[::-1]
    assert image.shape[:2] == tuple(-(-side // scale) for side in whole)
    model = BrightBox()
    model.preprocessing = Preprocessing(target)
    (small,) = Predictor(model).detections(tmp_path / "p.jpg")
    (full,) = Predictor(model).predict(tmp_path / "p.jpg")
    assert isinstance(full, Prediction) and full.image.pixels.shape[:2] == whole
    assert small.metadata == full.detections.metadata
    pixel = max(whole[0] / target[0], whole[1] / target[1])
    np.testing.assert_allclose(small.xyxy, full.detections.xyxy, atol=2 * pixel)


def test_other_formats_are_read_whole(tmp_path):
    Image.fromarray(_boxed(0, (640, 960))).save(tmp_path / "p.png")
    assert load_reduced(tmp_path / "p.png", (64, 96))[0].shape == (640, 960, 3)


def test_json_lines_tell_the_whole_size_of_a_reduced_image(tmp_path):
    Image.fromarray(_boxed(0, (640, 960))).save(tmp_path / "p.jpg")
    predict_to_files(Predictor(BrightBox()), tmp_path / "p.jpg", json=tmp_path / "found.jsonl")
    assert '"width": 960, "height": 640' in (tmp_path / "found.jsonl").read_text()


def test_preparing_in_threads_leaves_torchs_own_as_they_were(folder):
    before = torch.get_num_threads()
    inner = []
    list(ahead(iter(range(4)), lambda _: inner.append(torch.get_num_threads()), depth=4))
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert set(inner) == {1} and later == [before] and torch.get_num_threads() == before


def test_reading_in_threads_leaves_warnings_as_they_were(tmp_path):
    Image.fromarray(_boxed(0)).save(tmp_path / "p.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        list(ahead(iter([tmp_path / "p.jpg"] * 200), load_image, depth=16, workers=8))
        assert list(warnings.filters) == filters


@pytest.mark.parametrize("seed", range(3))
def test_the_running_median_is_the_median(seed):
    values = np.random.default_rng(seed).lognormal(2, 1, 4001)
    median = RunningMedian()
    for value in values:
        median.add(value)
    assert median.value == pytest.approx(np.median(values), rel=0.011)


def test_the_summary_does_not_grow_with_images():
    image = SourceImage("p", PurePath("p"), np.zeros((4, 4, 3), np.uint8), None, None, 1.0)
    found = Detections(np.zeros((1, 4)), confidence=np.ones(1), class_id=np.zeros(1, int), data={"class_name": ["box"]})
    delays = random.Random(0)
    times = [StageTimes(*(delays.uniform(1, 9) for _ in range(4))) for _ in range(500)]
    predictions = [Prediction(image, found, stages) for stages in times]
    summary = Summary()

    def add_all():
        for prediction in predictions:
            summary.add(prediction)

    add_all()
    tracemalloc.start()
    for _ in range(10):
        add_all()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert summary.images == 5500 and grown < 40_000


def test_stretching_a_tall_image_equals_torchs_resize_of_both_sides():
    image = np.random.default_rng(0).integers(0, 256, (130, 200, 3), dtype=np.uint8)
    tensor, _ = prepare(image, Preprocessing((64, 96)))
    chw = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float()
    expected = torch.nn.functional.interpolate(chw, (64, 96), mode="bilinear", align_corners=True)[0] / 255
    torch.testing.assert_close(tensor, expected, atol=2e-5, rtol=0)
