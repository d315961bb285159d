from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prune2vec.evaluation.evaluate import Parts
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.evaluation.results import OwnScores, TaskScore
from tests.evaluation.helpers import QUICK

SETTINGS = EvaluateSettings(**QUICK)


class Work:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return {"score": 0.5}


def test_a_finished_part_is_taken_over_for_the_same_inputs_only(encoder: LoadedEncoder, tmp_path: Path) -> None:
    work, output = Work(), tmp_path / "results.json"
    assert Parts(output, encoder, SETTINGS).get({"part": "a"}, work) == {"score": 0.5}
    assert Parts(output, encoder, SETTINGS).get({"part": "a"}, work) == {"score": 0.5}
    assert work.times == 1
    Parts(output, encoder, SETTINGS).get({"part": "b"}, work)
    Parts(output, replace(encoder, digest="other"), SETTINGS).get({"part": "a"}, work)
    Parts(output, encoder, EvaluateSettings(**{**QUICK, "max_length": 9})).get({"part": "a"}, work)
    assert work.times == 4


def test_a_damaged_part_is_done_again(encoder: LoadedEncoder, tmp_path: Path) -> None:
    work, parts = Work(), Parts(tmp_path / "results.json", encoder, SETTINGS)
    parts.get({"part": "a"}, work)
    (file,) = (tmp_path / ".results.json.parts").iterdir()
    file.write_text('{"score": 0', encoding="utf-8")
    assert parts.get({"part": "a"}, work) == {"score": 0.5}
    assert work.times == 2
    parts.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_no_record_is_done_again(encoder: LoadedEncoder, tmp_path: Path) -> None:
    work, parts = Work(), Parts(tmp_path / "results.json", encoder, SETTINGS)
    for number, kind in enumerate((TaskScore, OwnScores), start=1):
        parts.get({"part": number}, dict)
        assert parts.get({"part": number}, work, kind) == {"score": 0.5}
        assert work.times == number


def test_without_an_output_nothing_is_kept(encoder: LoadedEncoder) -> None:
    work, parts = Work(), Parts(None, encoder, SETTINGS)
    parts.get({}, work)
    parts.get({}, work)
    parts.remove()
    assert work.times == 2
