"""YAML of strangers: plain values as people mean them, within bounds, with the line of what is wrong."""

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crossstage.errors import ConfigError, DataError
from crossstage.reading.yaml import parse_yaml, read_yaml


def parsed(content, **options):
    return parse_yaml(content, "x.yaml", DataError, **options)


def test_plain_values_are_what_people_mean():
    found = parsed(
        "a: yes\nb: 007\nc: 1e-3\nd: true\ne: ~\nf: 2020-01-01\ng: 1:30\nh: 0x1F\ni: .inf\nj: '5'\nk: 1_0\nl: No"
    )
    assert found == {
        **{"a": "yes", "b": 7, "c": 0.001, "d": True, "e": None, "f": "2020-01-01", "g": "1:30", "h": 31},
        **{"i": float("inf"), "j": "5", "k": "1_0", "l": "No"},
    }


def test_names_stay_the_text_that_was_written():
    content = "nc: 3\nnames: [no, 007, 1e3, ~, true, 'x', 2020-01-01]\nother: [no, 007]"
    found = parsed(content, text=("names",))
    assert found == {
        "nc": 3,
        "names": ["no", "007", "1e3", "~", "true", "x", "2020-01-01"],
        "other": ["no", 7],
    }
    assert parsed("names:\n  0: no\n  1: 1.0\n  2:", text=["names"]) == {"names": {0: "no", 1: "1.0", 2: None}}
    assert parsed("names: 5", text=["names"]) == {"names": "5"}


def test_anchors_and_merges_are_read():
    assert parsed("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}
    merged = parsed("b: &b {x: 1, y: 2}\nc: &c {z: 0}\nd:\n  <<: [*b, *c]\n  x: 3\n  w: 4")
    assert merged["d"] == {"x": 3, "y": 2, "z": 0, "w": 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: 'a' stands here a second time"),
        ("a:\n  b: !!python/object/apply:os.system [x]", "x.yaml:2: tag '.*os.system'; expected plain values"),
        ("a: !!bool x", "x.yaml:1: found 'x' with the tag of a bool"),
        ("a: !!timestamp x", "x.yaml:1: tag .*; expected plain values"),
        ("a: !own 1", "x.yaml:1: tag '!own'"),
        ("a: *b", "x.yaml:1: .*'b' stands for nothing"),
        ("a: &a [*a]", "x.yaml:1: .*'a' stands for nothing"),
        ("a: " + "9" * 4301, "x.yaml:1: a number of 4,301 characters"),
        ("a: [1,\nb: 2", r"x.yaml:\d: not YAML"),
        ("a:\n\t- b", "x.yaml:2: not YAML: found character"),
        ("a: \x1b[31m", "x.yaml: not YAML: .*unacceptable character"),
        ("? [a]\n: b", "x.yaml:1: a list or mapping as a key"),
        ("a: &x [1]\n? *x\n: b", "x.yaml:2: a list or mapping as a key"),
        ("--- 1\n--- 2", "x.yaml:2: a second document"),
        ("<<: 5", "x.yaml:1: <<: 5; expected a mapping"),
    ],
)
def test_what_is_refused_has_its_line(content, message):
    with pytest.raises(DataError, match=message) as caught:
        parsed(content)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], y{i}: 1}}\n" for i in range(1, 10)
)
CHAIN = "a0: &a0 1\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000))


@pytest.mark.parametrize(
    "content",
    [LAUGHS, MERGES, CHAIN, "[" * 50_000, "{a: " * 50_000, "a: [" + "1," * 101_000 + "]", "- " * 50_000, "? " * 50_000],
    ids=["aliases", "merges", "chain", "lists", "mappings", "values", "dashes", "keys"],
)
def test_what_would_grow_is_refused_at_once(content):
    start = time.process_time()
    with pytest.raises(DataError, match=r"x\.yaml:\d+: "):
        parsed(content)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds nothing; expected options"),
        (b"[1, 2]", "holds a list; expected options"),
        (b"x" * (1 << 20) + b"y", "longer than 1,048,576 bytes"),
        (b"a: \xff", "byte 4"),
    ],
)
def test_a_file_that_holds_no_mapping_is_refused(content, message, tmp_path):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "a.yaml", ConfigError, "options")


def test_a_mark_and_other_encodings_are_heeded(tmp_path):
    (tmp_path / "a.yaml").write_text("naïve: 1\r\nb: 2\r\n", "utf-16")
    assert read_yaml(tmp_path / "a.yaml", DataError, "x") == {"naïve": 1, "b": 2}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_what_pyyaml_quotes_or_spells_out_is_read_back(value):
    quoted = yaml.safe_dump(value, default_style='"', allow_unicode=True)
    assert parsed(quoted) == value


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,? \n\t0159.eE<~\\", max_size=60))
def test_any_text_is_a_value_or_refused(content):
    try:
        parsed(content)
    except DataError as error:
        assert str(error).startswith("x.yaml") and "\n" not in str(error)
