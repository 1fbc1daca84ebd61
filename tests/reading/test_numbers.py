"""Numbers in all the forms in which tools write them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossstage.reading.numbers import number, whole


@pytest.mark.parametrize("value", [7, 7.0, "7", " 7\t", "7.0", "+7", "7.000e+00", "70e-1", np.int8(7), np.float32(7)])
def test_whole_numbers_may_be_written_as_floats(value):
    assert whole(value) == 7 and type(whole(value)) is int
    assert number(value) == 7.0 and type(number(value)) is float


@pytest.mark.parametrize("value", [True, None, "", "x", "1_0", "٣", "0x10", "9" * 5000, [1], np.nan, "nan", "inf", 1j])
def test_what_is_no_number_is_refused_in_a_line(value):
    for read, what in ((whole, "a whole number"), (number, "a finite number")):
        with pytest.raises(ValueError, match=f"^found .*, expected {what}$") as caught:
            read(value)
        assert len(str(caught.value)) < 150


@pytest.mark.parametrize("value", ["1.5", 0.5, "1e300", 2**63, "1e-1"])
def test_fractions_and_what_no_column_holds_are_not_whole(value):
    assert math.isfinite(number(value))
    with pytest.raises(ValueError, match="expected a whole number"):
        whole(value)


def test_a_whole_number_that_no_float_holds_is_not_finite():
    with pytest.raises(ValueError, match="expected a finite number"):
        number(10**400)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.floats(), st.integers(), st.text(), st.binary(), st.none(), st.booleans()))
def test_anything_is_a_number_or_refused(value):
    for read in (whole, number):
        try:
            assert math.isfinite(read(value))
        except ValueError as error:
            assert "expected" in str(error)


@settings(max_examples=60, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_writes_is_read_back(value):
    assert number(repr(value)) == value
