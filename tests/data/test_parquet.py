"""Parquet files: what people have, and what claims more than its bytes can hold."""

import io

import numpy as np
import pytest
from PIL import Image

from crossstage.data.formats.parquet import FORMATS, MAX_CLASSES, read_parquet

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def png():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path, labels, images, metadata=None, **options):
    table = pa.table({"image": images, "label": labels})
    parquet.write_table(table.replace_schema_metadata(metadata) if metadata else table, path, **options)
    return path


def test_bytes_and_structs_are_read_and_named_by_their_rows(png, tmp_path):
    struct = pa.array([{"bytes": png, "path": None}] * 4, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for images in ([png] * 4, struct):
        found = read_parquet([write(tmp_path / "a.PARQUET", [0, 1, 7, None], images)], ["x", "y"])
        assert found.data is not None and found.skipped == 2
        assert found.data.labels.tolist() == [0, 1] and found.data.images[1] == png
        assert found.data.names[1].endswith("a.PARQUET: row 1") and found.data.take([1]).names[0] == found.data.names[1]
        assert [fault.text for fault in found.faults] == [
            "row 2: label 7; expected 0 to 1",
            "row 3: label -1; expected 0 to 1",
        ]
    assert list(FORMATS["parquet"].parts(tmp_path, None)) == ["train"]


def test_whole_floats_are_class_ids(png, tmp_path):
    found = read_parquet([write(tmp_path / "a.parquet", [1.0, 0.0], [png] * 2)], None)
    assert found.data is not None and found.data.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([2**40, 0], "label 1,099,511,627,776; expected fewer than 100,000 classes"),
        ([MAX_CLASSES, 0], "expected fewer than"),
        ([[1], [2, 3]], "holds 'list<.*'; expected class ids"),
        (["a", "b"], "holds 'string'"),
        ([0.5, 1.0], "numbers that are no class ids"),
        ([2**63, 1], "numbers that are no class ids"),
        ([{"a": 1}, {"a": 2}], "holds 'struct<.*'"),
    ],
)
def test_labels_that_are_no_class_ids_are_one_fault(labels, message, png, tmp_path):
    column = pa.array(labels, pa.uint64()) if labels[0] == 2**63 else labels
    found = read_parquet([write(tmp_path / "a.parquet", column, [png] * 2)], None)
    assert found.data is None and len(found.faults) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found.faults[0].text)


@pytest.mark.parametrize(("images", "kind"), [([[1], [2]], "list"), ([1, 2], "int64"), (["a", "b"], "string")])
def test_images_that_are_no_bytes_are_one_fault(images, kind, tmp_path):
    found = read_parquet([write(tmp_path / "a.parquet", [0, 1], images)], None)
    assert found.data is None and f"column 'image' holds '{kind}" in found.faults[0].text


def test_more_than_a_file_can_hold_is_refused_before_it_is_read(png, tmp_path, monkeypatch):
    monkeypatch.setattr("crossstage.data.formats.parquet.FREE_BYTES", 1 << 20)
    rows = write(tmp_path / "rows.parquet", pa.array(np.ones(300_000, np.int64)), pa.array([png] * 300_000))
    zeros = write(tmp_path / "zeros.parquet", [0] * 3, [bytes(500_000)] * 3, use_dictionary=False, compression="zstd")
    for path, message in ((rows, "300,000 rows in"), (zeros, "bytes in a file of")):
        found = read_parquet([path], None)
        assert found.data is None and len(found.faults) == 1 and message in found.faults[0].text


def test_equal_images_are_kept_once(tmp_path):
    image = np.random.default_rng(0).bytes(100_000)
    found = read_parquet([write(tmp_path / "a.parquet", [0] * 2000, [image] * 2000)], None)
    assert found.data is not None and found.data.images[1999] == image
    assert found.data.images.column.nbytes < 1_000_000


def test_faults_are_capped(tmp_path):
    noise = [np.random.default_rng(i).bytes(40) for i in range(3000)]
    found = read_parquet([write(tmp_path / "a.parquet", [9] * 2999 + [0], noise)], ["x"])
    assert found.skipped == 2999 and len(found.faults) == 1001 and "1,999 more rows" in found.faults[-1].text


@pytest.mark.parametrize("names", ["[1, 2]", '"ab"', "{}", "[" * 100_000, '["a"', "[]"])
def test_stored_names_of_another_kind_do_not_count(names, png, tmp_path):
    metadata = {"huggingface": f'{{"info": {{"features": {{"label": {{"names": {names}}}}}}}}}'}
    found = read_parquet([write(tmp_path / "a.parquet", [0, 1], [png] * 2, metadata)], None)
    assert found.data is not None and found.data.class_names == ("0", "1")


def test_damaged_files_are_one_fault(png, tmp_path):
    whole = write(tmp_path / "a.parquet", [0, 1], [png] * 2).read_bytes()
    for number, content in enumerate(
        (b"", b"PAR1", whole[:-9], b"PAR1" + b"\xff" * 60 + b"PAR1", whole[:40] + whole[90:])
    ):
        (tmp_path / f"{number}.parquet").write_bytes(content)
        found = read_parquet([tmp_path / f"{number}.parquet"], None)
        assert found.data is None and len(found.faults) == 1 and "\n" not in found.faults[0].text
