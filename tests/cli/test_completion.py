"""A shell completes verbs, options and their values."""

import shutil
import subprocess

import pytest

from crossstage.cli import main

pytest.importorskip("shtab")


@pytest.mark.parametrize(
    ("words", "cursor", "expected"),
    [
        (["crossstage", "pred"], 1, {"predict"}),
        (["crossstage", "data", "che"], 2, {"check"}),
        (["crossstage", "export", "x", "--for"], 3, {"--format"}),
        (["crossstage", "predict", "--nms", "di"], 3, {"diou"}),
    ],
)
def test_bash_completes(tmp_path, capsys, words, cursor, expected):
    assert main(["completion", "--shell", "bash"]) == 0
    script = tmp_path / "completion.bash"
    given = " ".join(f"'{word}'" for word in words)
    script.write_text(f"""{capsys.readouterr().out}
        COMP_WORDS=({given}); COMP_CWORD={cursor}; _shtab_crossstage; echo "${{COMPREPLY[@]}}" """)
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected, done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_reads_its_script(tmp_path, capsys, shell):
    assert main(["completion", "--shell", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "predict" in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], check=True)
