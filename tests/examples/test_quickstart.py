"""The notebook's cells run one after the other, with a tiny encoder and a folder of a few texts in the place of the first cell's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_encoders import TinyEncoder

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


@pytest.mark.notebook
def test_the_cells_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == [], "commit it without what it printed"
    first, *others = ("".join(cell["source"]) for cell in code)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(first, names)
    given = {name: value for name, value in names.items() if name != "__builtins__"}
    changes = {"encoder": str(_encoder(tmp_path)), "notes": str(_notes(tmp_path)), "query": "sort a list of words", "steps": 2}
    assert given.keys() == changes.keys()
    names |= changes
    for cell in others:
        exec(cell, names)
    said = capsys.readouterr().out
    assert "40 texts of 4 files" in said
    assert said.count("cosine to the whole one") == 2
    assert "part-0.md#" in said or "deep/part-" in said
    # Two of five layers, in a folder that any sentence-transformers loads.
    assert json.loads((tmp_path / "small" / "config.json").read_text())["num_hidden_layers"] == 2


def _encoder(folder: Path) -> Path:
    return TinyEncoder(family="bert", pooling="mean", around=("<s>", "</s>")).save(folder / "encoder")


def _notes(folder: Path) -> Path:
    words = ("sort", "read", "write", "count", "merge")
    for number in range(4):
        place = folder / "notes" / ("deep" if number % 2 else "") / f"part-{number}.md"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(
            "\n\n".join(f"To {words[n % 5]} a list, part {number}, take way {n}." for n in range(10)), encoding="utf-8"
        )
    return folder / "notes"
