"""The documentation builds as a site without a warning, with the API's pages and a search index."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_builds_and_is_searched(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "ops" / "index.html").read_text()
    assert "postprocess" in page and ":func:" not in page
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text())
    assert any("to_partial" in entry["text"] for entry in index["docs"])
    copied = tmp_path / "site" / "files" / "src" / "crossstage" / "models" / "necks" / "efm.py.txt"
    assert copied.read_text() == (ROOT / "src" / "crossstage" / "models" / "necks" / "efm.py").read_text()
