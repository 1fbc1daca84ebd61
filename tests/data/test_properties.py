"""Properties of parsers: any content is read within what it can mean, or refused in one of our errors."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossstage.darknet.cfg import parse_cfg
from crossstage.data.class_names import read_class_names
from crossstage.data.masks import checked_segmentation
from crossstage.data.xml_reading import children
from crossstage.data.yolo_labels import Manner, read_labels
from crossstage.deploy.header import ExportHeader
from crossstage.errors import ConfigError, CrossStageError, DataError
from crossstage.models.spec import ModelSpec
from crossstage.ops import rle
from research.soak.inputs import HEADER

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
SPEC = {"format": 1, "name": "darknet53", "num_classes": 2, "class_names": ["a", "b"], "overrides": {}}


@pytest.fixture(scope="module")
def file():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "a.txt"


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="01.- +ex\n\tn#", max_size=60))
def test_lines_of_numbers_are_boxes_in_the_image_or_faults(file, text):
    file.write_text(text)
    try:
        boxes, faults = read_labels(file, (40, 30), 2, Manner())
    except DataError:
        return
    assert len(boxes) + len(faults) <= 2 * len(text.splitlines()) + 1
    for box in boxes:
        left, top, right, bottom = box.xyxy
        assert 0 <= left < right <= 40 and 0 <= top < bottom <= 30 and box.class_id in (0, 1)


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(-2, 60), max_size=6) | st.text(max_size=12), height=st.integers(1, 9))
def test_runs_fill_their_image_or_are_refused(counts, height):
    size = (height, 7)
    try:
        packed = checked_segmentation({"counts": counts, "size": list(size)}, size)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert isinstance(packed, str)
    mask = rle.unpack(packed, size)
    assert mask.shape == size and rle.area(packed, size) == mask.sum() and sum(rle.runs_of(packed, size)) == mask.size
    assert np.array_equal(rle.unpack(rle.pack(mask), size), mask)


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="[]netcov=,#;-0123456789. \n\r\t\x00\x9b", max_size=80))
def test_any_cfg_is_sections_or_refused(text):
    try:
        sections = parse_cfg(f"[net]\nwidth=8\n{text}\n")
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    assert sections[0].kind == "net" and all(section.line >= 1 for section in sections)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_names_are_the_lines_or_refused(file, text):
    file.write_text(text, "utf-8", newline="")
    try:
        names = read_class_names(file)
    except CrossStageError as error:
        assert "\n" not in str(error)
        return
    assert (
        all(name and name == name.strip() for name in names) and len(names) <= text.count("\n") + text.count("\r") + 1
    )


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from(sorted(HEADER)), value=JSON)
def test_a_header_of_anything_is_read_or_refused(key, value):
    for text, read in (
        (json.dumps({**HEADER, key: value}), lambda text: ExportHeader.from_json(text, Path("a.onnx"))),
        (json.dumps(value), lambda text: ExportHeader.from_json(text, Path("a.onnx"))),
    ):
        try:
            read(text)
        except CrossStageError as error:
            assert "\n" not in str(error)


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from([*sorted(SPEC), "preprocessing", "provenance"]), value=JSON)
def test_a_spec_of_anything_is_read_or_refused(key, value):
    for content in ({**SPEC, key: value}, value):
        try:
            ModelSpec.from_json(json.dumps(content), "a.safetensors")
        except CrossStageError as error:
            assert "\n" not in str(error)


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="<>/abc&;!?'\"= []-", max_size=60))
def test_any_xml_is_read_or_refused(file, text):
    file.write_text(f"<a>{text}</a>")
    try:
        list(children(file, 1000, 10))
    except DataError as error:
        assert "\n" not in str(error)
