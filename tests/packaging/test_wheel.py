"""The wheel and the source distribution, built and installed where nothing else is than what they ask for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from crossstage.cli import VERBS
from crossstage.cli.verb import Group

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".venv", "runs", "__pycache__", ".*_cache", ".hypothesis", "site", "dist")
QUIET = ["--quiet", "--disable-pip-version-check"]
PHOTO = ROOT / "examples" / "photos" / "000000000471.jpg"


def ran(*words: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "PYTHONWARNINGS")}
    command = [str(word) for word in words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment, **more)


def needed(name: str, extras: tuple[str, ...] = (), found: dict[str, metadata.Distribution] | None = None):
    """What a distribution needs, and what these need: found here by their metadata."""
    found = {} if found is None else found
    for text in metadata.distribution(name).requires or ():
        one = Requirement(text)
        wanted = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and canonicalize_name(one.name) not in found:
            found[canonicalize_name(one.name)] = metadata.distribution(one.name)
            needed(one.name, tuple(one.extras), found)
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with both, built from a copy of the sources by the backend that the project names."""
    folder = tmp_path_factory.mktemp("built")
    venv.create(folder / "tools", with_pip=True)
    tools = folder / "tools" / "bin" / "python"
    installed = ran(tools, "-m", "pip", "install", *QUIET, "hatchling")
    if installed.returncode:
        pytest.skip(f"the build backend cannot be installed: {installed.stderr[-200:]}")
    shutil.copytree(ROOT, folder / "copy", ignore=LEFT_OUT, symlinks=True)
    done = ran(tools, "-m", "hatchling", "build", "-d", folder / "dist", cwd=folder / "copy")
    assert done.returncode == 0, done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def plain(built, tmp_path_factory) -> Path:
    """An environment with the wheel and what it asks for, and nothing else; what it asks for is linked from here."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder, with_pip=True)
    there = next((folder / "lib").glob("python*")) / "site-packages"
    for distribution in needed("crossstage").values():
        for file in distribution.files or ():
            top = there / file.parts[0]
            if file.parts[0] != ".." and "__pycache__" not in file.parts[0] and not top.exists():
                top.symlink_to(Path(str(distribution.locate_file(file.parts[0]))))
    wheel = next(built.glob("*.whl"))
    # Without an index: if anything else were asked for, this could not be done.
    done = ran(folder / "bin" / "python", "-m", "pip", "install", *QUIET, "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_they_hold_what_they_should(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"crossstage"}
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"README.md", "LICENSE", "NOTICE", "requirements.lock", "tests/conftest.py"} <= names


def test_everything_of_the_package_is_in_the_wheel(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    mine = {f"crossstage/{path.relative_to(ROOT / 'src' / 'crossstage')}" for path in (ROOT / "src").rglob("*.*")}
    assert {name for name in mine if "__pycache__" not in name and (ROOT / "src" / name).is_file()} <= packed


def test_a_plain_install_finds_trains_and_measures_without_a_warning(plain, tmp_path):
    crossstage = plain / "crossstage"
    done = ran(crossstage, "predict", PHOTO, "--json", tmp_path / "found.jsonl", "--save", tmp_path / "copies")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "found.jsonl").read_text())["detections"]
    assert "arn" not in done.stderr and "cv2" not in done.stderr, done.stderr
    drawn = ran(plain / "python", ROOT / "examples" / "draw_shapes.py", tmp_path / "shapes")
    assert drawn.returncode == 0, drawn.stderr
    words = [
        "--epochs",
        "1",
        "--imgsz",
        "64",
        "--model",
        "yolox_nano",
        "--out",
        tmp_path,
        "--name",
        "run",
        "--workers",
        "0",
    ]
    trained = ran(crossstage, "train", "--data", tmp_path / "shapes", *words)
    assert trained.returncode == 0, trained.stderr
    assert "Warning" not in trained.stderr and "OpenCV" not in trained.stderr, trained.stderr
    measured = ran(crossstage, "val", "--model", tmp_path / "run", "--data", tmp_path / "shapes")
    assert measured.returncode == 0 and "Warning" not in measured.stderr, measured.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["export", "cspdarknet53_tiny_yolo", "--format", "onnx", "--out", "x.onnx"], "export"),
        (["predict", str(PHOTO), "--runtime", "openvino"], "export"),
        (["predict", str(PHOTO), "--runtime", "ncnn"], "ncnn"),
        (["predict", str(PHOTO), "--runtime", "opencv"], "opencv"),
        (["report", "csppeleenet", "--out", "report.html"], "report"),
        (["track", str(PHOTO)], "track"),
        (["profile", "timm-network:resnet18"], "timm"),
        (["serve", "cspdarknet53_tiny_yolo"], "serve"),
        (["tune", "--data", str(PHOTO.parent), "--out", "t"], "tune"),
        (["train", "--data", str(PHOTO.parent), "--logger", "mlflow"], "mlflow"),
        (["completion", "--shell", "bash"], "completion"),
    ],
)
def test_what_needs_an_extra_names_it_in_a_line(plain, tmp_path, words, extra):
    done = ran(plain / "crossstage", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and f"pip install 'crossstage[{extra}]'" in done.stderr


def test_every_verb_answers_for_help_in_a_plain_install(plain):
    for name, verb in VERBS.items():
        for words in [[name, inner] for inner in verb.verbs] if isinstance(verb, Group) else [[name]]:
            done = ran(plain / "crossstage", *words, "--help")
            assert done.returncode == 0 and done.stdout.startswith("usage: crossstage") and not done.stderr, words


def test_a_module_answers_as_the_command_does(plain):
    assert (
        ran(plain / "python", "-m", "crossstage", "--version").stdout == ran(plain / "crossstage", "--version").stdout
    )


def test_the_source_distribution_builds_the_same_wheel(built, tmp_path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        source.extractall(tmp_path, filter="data")
    tools = built.parent / "tools" / "bin" / "python"
    done = ran(tools, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=next(tmp_path.iterdir()))
    assert done.returncode == 0, done.stderr
    first, second = (zipfile.ZipFile(next(folder.glob("*.whl"))) for folder in (built, tmp_path / "again"))
    assert {i.filename: i.CRC for i in first.infolist()} == {i.filename: i.CRC for i in second.infolist()}


def test_extras_are_those_that_the_readme_lists():
    extras = set(metadata.metadata("crossstage").get_all("Provides-Extra") or ())
    text = (ROOT / "README.md").read_text()
    assert all(f"[{extra}]" in text for extra in extras - {"dev", "docs"}), extras
    assert sys.version_info >= (3, 11)
