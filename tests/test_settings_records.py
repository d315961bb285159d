"""A record's file: what is written is read back, and what is no such record is one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import DataError, PlanError
from prune2vec.settings import Layer, Record


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inside another."""

    count: Layer
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Small(Record):
    """A record."""

    FORMAT = "prune2vec.small/1"
    KIND = "plan"
    ERROR = PlanError
    COMPUTED = ("twice",)

    inner: Inner
    rest: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no field can."""
        if self.inner.count == 7:
            raise PlanError("seven does not go")

    @property
    def twice(self) -> int:
        """A value for readers."""
        return 2 * self.inner.count


SMALL = Small(inner=Inner(count=3, names=("a", "b")), rest={"a-b": [1.5, None]})
WRITTEN = {"format": "prune2vec.small/1", "twice": 6, "inner": {"count": 3, "names": ["a", "b"]}, "rest": {"a-b": [1.5, None]}}


def test_round_trip(tmp_path: Path) -> None:
    SMALL.save(tmp_path / "small.json")
    assert json.loads((tmp_path / "small.json").read_text()) == WRITTEN == SMALL.to_json()
    assert Small.load(tmp_path / "small.json") == SMALL
    assert SMALL.digest != Small(inner=SMALL.inner).digest


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "not a plan (expected format 'prune2vec.small/1'); make one with prune2vec plan"),
        ({**WRITTEN, "format": "prune2vec.small/2"}, "not a plan"),
        (
            {**WRITTEN, "inner": {"count": 3.5}},
            "broken plan (inner.count: input should be a valid integer, got 3.5); make it again",
        ),
        ({**WRITTEN, "inner": {}}, "broken plan (inner.count is missing)"),
        ({**WRITTEN, "inner": {"count": 3, "name": []}}, "broken plan (unknown key 'inner.name'; did you mean 'names'?)"),
        ({**WRITTEN, "inner": {"count": 7}, "twice": 14}, "seven does not go"),
        ({**WRITTEN, "twice": 8}, "broken plan (twice is 8, but the other entries make it 6)"),
        ({key: item for key, item in WRITTEN.items() if key != "rest"}, "broken plan (rest is missing)"),
    ],
)
def test_what_is_no_such_record_is_one_line(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(value))
    with pytest.raises(PlanError) as caught:
        Small.load(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_computed_entry_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps({key: item for key, item in WRITTEN.items() if key != "twice"}))
    assert Small.load(tmp_path / "small.json") == SMALL


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^cannot read [^\n]+small\.json"):
        Small.load(tmp_path / "small.json")
