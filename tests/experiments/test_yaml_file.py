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
    assert file.where(("train", "batch_size")).endswith(":4")
    assert file.where(("variants", 1, "max_x")).endswith(":8")
    assert file.where(("train", "not_there")).endswith(":3")
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


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: x\0y\n", ":2: not YAML: special characters are not allowed ('\\x00')"),
        ("a: 1\nb: &b [*b]\n", ":2: more than 50 levels deep"),
        ("a: &a\n  <<: *a\n", ":1: more than 50 levels deep"),
        (bomb(), "more than 100,000 values"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "more than 50 levels deep"),
        ("a: 1\nb: " + "9" * 5000, ":2: not YAML: Exceeds the limit"),
        ("a: 2026-13-45\n", ":1: not YAML: month must be in 1..12"),
        ("a: !!int x\n", ":1: not YAML: invalid literal"),
        ("a: !!timestamp x\n", ":1: not YAML"),
        ("a: !!bool x\n", ":1: not YAML: KeyError"),
        ("? [a, b]\n: 1\n", ":1: not YAML"),
        ("# " + "x" * 2_000_001, "longer than 2,000,000 characters"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_file_of_settings_is_one_line_and_no_hang(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert said in str(caught.value) and "a.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_aliases_that_are_small_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n", encoding="utf-8")
    assert read_yaml(path).values == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
