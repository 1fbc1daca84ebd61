"""Each promise of SECURITY.md is held by tests that exist."""

import re

from tests.docs.pages import ROOT

TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
PROMISED = TEXT.partition("## What is promised")[2].partition("## What is not")[0]


def test_each_promise_names_tests_that_exist():
    rows = [line for line in PROMISED.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, f"no test: {row}"
        for file, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), f"{file}::{test}"
