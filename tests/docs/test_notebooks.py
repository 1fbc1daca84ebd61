"""The notebooks run from their first cell to their last, where a reader has them."""

import shutil

import pytest

from tests.docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks_without_output():
    nbformat = pytest.importorskip("nbformat")
    assert len(NOTEBOOKS) == 3
    for file in NOTEBOOKS:
        for cell in nbformat.read(file, 4).cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, file


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}")
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    folder = tmp_path / "examples" / "notebooks"
    book = nbformat.read(folder / file.name, 4)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in book.cells:
        texts = [out.get("text", "") for out in cell.get("outputs", ()) if out.output_type == "stream"]
        assert "Traceback" not in "".join(texts)
