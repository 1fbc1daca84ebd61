"""An error's message says what was found, and does nothing to the terminal that shows it."""

import pickle

import pytest

from crossstage.errors import ConfigError, CrossStageError, DataError, not_installed


@pytest.mark.parametrize("kind", [CrossStageError, DataError])
def test_what_acts_on_a_terminal_is_written_out(kind):
    error = kind("a\x1b[2Jb\x00c\u202ed\n\tline two")
    assert str(error) == "a\\x1b[2Jb\\x00c\\u202ed\n\tline two"


def test_errors_pass_between_processes():
    error = pickle.loads(pickle.dumps(not_installed("shtab", "completion")))
    assert isinstance(error, ConfigError) and "pip install 'crossstage[completion]'" in str(error)


def test_an_endless_name_is_cut_and_a_long_path_is_whole():
    path = "/".join(["x" * 200] * 10)
    text = str(DataError(f"{path}: no setting {'y' * 9000!r}"))
    assert text.startswith(f"{path}: no setting 'yyy") and text.endswith("yyy'") and len(text) < len(path) + 250
