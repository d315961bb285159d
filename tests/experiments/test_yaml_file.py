from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import ConfigError
from prune2vec.experiments.yaml_file import dashed, dump_yaml, read_yaml, underscored


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_and_lines(tmp_path: Path) -> None:
    file = read_yaml(
        written(tmp_path, "# head\nmodel: x\ntrain:\n  batch-size: 3\nvariants:\n  - {name: a}\n  - name: b\n    max-x: 1\n")
    )
    assert file.values == {"model": "x", "train": {"batch_size": 3}, "variants": [{"name": "a"}, {"name": "b", "max_x": 1}]}
    assert file.line_of(("train", "batch_size")) == 4
    assert file.line_of(("variants", 1, "max_x")) == 8
    assert file.line_of(("train", "not_there")) == 3
    assert file.where(("model",)).endswith("a.yaml:2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1,\n", r"a\.yaml:3: not YAML"),
        ("a: 1\na: 2\n", r"a\.yaml:2: key 'a' was already given in line 1"),
        ("a:\n  b-c: 1\n  b_c: 2\n", r"a\.yaml:3: key 'b_c' was already given in line 2"),
        ("a: !!python/object:os.system x\n", r"a\.yaml:1: not YAML"),
        ("- 1\n", "expected keys and values"),
        ("", "expected keys and values"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_yaml(written(tmp_path, text))


def test_missing_and_binary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "b.yaml")


def test_dashes_both_ways() -> None:
    value = {"a_b": [{"c_d": "e_f"}], "g": 1}
    assert dashed(value) == {"a-b": [{"c-d": "e_f"}], "g": 1}
    assert underscored(dashed(value)) == value
    assert dump_yaml(value).startswith("a-b:\n")


def test_on_and_off_are_words(tmp_path: Path) -> None:
    file = read_yaml(written(tmp_path, "a: on\nb: off\nc: true\nd: False\ne: yes\nf: null\n"))
    assert file.values == {"a": "on", "b": "off", "c": True, "d": False, "e": "yes", "f": None}
    assert dump_yaml({"a": "on"}) == "a: 'on'\n"
