"""Names of strangers on the terminal: shown as they are, and without effect."""

import io
import sys

import pytest
from rich.table import Table
from rich.text import Text

from crossstage.cli import main
from crossstage.cli.console import console, say

HARMFUL = "a\x1b]0;title\x07\x1b[2J\u202e\udcff"
SHOWN = r"a\x1b]0;title"


@pytest.mark.parametrize("make", [str, Text], ids=["text", "styled"])
def test_control_characters_are_shown_in_tables_and_lines(make, capsys):
    table = Table("name")
    table.add_row(make(HARMFUL))
    console().print(table)
    console().print(make(HARMFUL))
    say(HARMFUL)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and "\udcff" not in out and out.count(SHOWN) == 3


def test_brackets_and_colons_are_text(capsys):
    table = Table("name")
    table.add_row("[/red] [bold]x :smile:")
    console().print(table)
    console().print("[/] [link=x]")
    out = capsys.readouterr().out
    assert "[/red] [bold]x :smile:" in out and "[/] [link=x]" in out


def test_an_error_is_harmless_and_no_name_can_pass_for_another(capsys, tmp_path):
    name = f"{tmp_path}/x\x1b[31m\nerror: forged\u202e"
    assert main(["predict", name]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err and err.count("\nerror:") == 0 and r"\x1b[31m" in err


def test_a_strict_terminal_gets_escapes_for_what_it_cannot_show(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["--version"]) == 0
    console().print("猫 ok")
    stdout.flush()
    assert b"\\u732b ok" in stdout.buffer.getvalue()
