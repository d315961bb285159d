"""Completion in a real bash, and what a line that is wrong already gets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prune2vec.cli.app import entry

SCRIPT = """
eval "$(_PRUNE2VEC_COMPLETE=bash_source prune2vec)"
complete -p prune2vec
for line in "prune2vec tra" "prune2vec train small --data x --ste"; do
    COMPREPLY=() COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _prune2vec_completion prune2vec
    echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="needs bash")
def test_bash_completes_verbs_and_options(tmp_path: Path) -> None:
    program = tmp_path / "prune2vec"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m prune2vec "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(["bash", "-c", SCRIPT], capture_output=True, text=True, env={**os.environ, "PATH": path}, check=True)
    registered, verbs, options = ran.stdout.splitlines()
    assert registered.endswith("prune2vec") and verbs == "train" and options == "--steps" and ran.stderr == ""


@pytest.mark.parametrize(("line", "code", "said"), [("prune2vec ev", 0, "plain,evaluate\n"), ("prune2vec nonsense x", 1, "")])
def test_a_wrong_line_has_nothing(
    line: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.split()
    for name, value in (("_PRUNE2VEC_COMPLETE", "bash_complete"), ("COMP_WORDS", line), ("COMP_CWORD", str(len(words) - 1))):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == code and capsys.readouterr().out == said
