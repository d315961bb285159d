"""The check of the documentation finds what is wrong, and lets pass what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.files import read_json, write_json
from prune2vec.forward.pooling import poolings
from scripts import check_docs, demo_record

GOOD = """
# Title

```bash
make demo
prune2vec plan profile.json --method l3prune --variant large -o plan.json   # a comment
prune2vec train small/ --data triplets/ \\
    -o encoder/ --steps 200
prune2vec --help
prune2vec run --help
```
"""


def page(folder: Path, text: str) -> Path:
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_good_commands_pass(tmp_path: Path) -> None:
    readme = page(tmp_path, GOOD)
    (block,) = check_docs.blocks(readme)
    assert [line for line, _ in check_docs.commands(block)] == [6, 8, 9, 10]
    assert check_docs.parse_faults([readme]) == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("plan profile.json --metod l3prune", "--metod"),
        ("plann profile.json", "plann"),
        ("plan profile.json --layers four", "four"),
        ("plan profile.json other.json", "other.json"),
        ("profile smollm2 --texts t.jsonl --sampling smpled", "smpled"),
        ("profile smollm2", "--texts"),
        ("prune smollm2 -o small", "PLAN"),
        ("compare", "RESULTS"),
        ("train small --data t.jsonl -o out --weight-decay 0.1", "--weight-decay is no option, but a key of a --config file"),
    ],
)
def test_bad_commands_are_found(tmp_path: Path, command: str, fault: str) -> None:
    readme = page(tmp_path, f"text\n\n```bash\nprune2vec {command}\n```\n")
    (found,) = check_docs.parse_faults([readme])
    assert fault in found
    assert f"{readme}:4" in found


def test_only_bash_blocks_hold_commands(tmp_path: Path) -> None:
    assert check_docs.parse_faults([page(tmp_path, "```text\nprune2vec nonsense\n```\n")]) == []


def test_marked_blocks_run_in_one_folder_with_their_changes(tmp_path: Path) -> None:
    text = """
<!-- run big => small -->
```bash
echo big > first.txt
test -d model
test -f triplets.jsonl
```

<!-- run -->

```python
assert open("first.txt").read() == "small\\n"
```

```bash
false
```
"""
    assert check_docs.run_faults([page(tmp_path, text)]) == []


def test_a_failing_block_is_found_with_what_it_said(tmp_path: Path) -> None:
    (found,) = check_docs.run_faults([page(tmp_path, "<!-- run -->\n```bash\necho why >&2; false; true\n```\n")])
    assert "exit 1" in found
    assert "why" in found


def test_a_change_that_fits_nothing_is_found(tmp_path: Path) -> None:
    (found,) = check_docs.run_faults([page(tmp_path, "<!-- run x9 => y -->\n```bash\ntrue\n```\n")])
    assert "'x9'" in found


def test_a_comment_marks_only_the_next_block(tmp_path: Path) -> None:
    readme = page(tmp_path, "<!-- run -->\n```bash\na\n```\n```bash\nb\n```\n<!-- run -->\nwords\n```bash\nc\n```\n")
    assert [block.changes for block in check_docs.blocks(readme)] == [(), None, None]


def test_generated_parts_are_checked_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = page(tmp_path, "before\n<!-- methods -->\nold\n<!-- /methods -->\nafter\n")
    assert check_docs.main(["--no-run"], root=tmp_path) == 1
    assert "README.md: generated part" in capsys.readouterr().out
    assert check_docs.main(["--fix"], root=tmp_path) == 0
    assert check_docs.main(["--no-run"], root=tmp_path) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert all(f"`{name}`" in text for name in poolings)
    assert "## prune2vec plan show" in (tmp_path / "docs" / "cli.md").read_text(encoding="utf-8")


def test_options_that_verbs_share_are_described_once() -> None:
    text = check_docs.cli_page()
    for option in ("--config PATH ", "--append-eos [auto|on|off] "):
        assert text.count(option) in (1, 2), option
    assert "The text settings as options of a verb: see profile\n" in text
    assert "Common to all verbs: see demo\n" in text


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    narrow = check_docs.cli_page()
    monkeypatch.setenv("COLUMNS", "200")
    assert check_docs.cli_page() == narrow


def test_the_demo_block_is_rendered_from_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = page(tmp_path, "a\n<!-- demo -->\nold: 24 steps\n<!-- /demo -->\nb\n")
    record = tmp_path / "benchmarks" / "results" / "demo.json"
    write_json(record, read_json(demo_record.RECORD))
    assert check_docs.main(["--fix"], root=tmp_path) == 0
    assert check_docs.main(["--no-run"], root=tmp_path) == 0
    write_json(record, {**read_json(record), "steps": 41})
    assert check_docs.main(["--no-run"], root=tmp_path) == 1
    assert "README.md: generated part is not current" in capsys.readouterr().out
    assert check_docs.main(["--fix"], root=tmp_path) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.count("41 steps") == 2
    assert "24 steps" not in text


def test_a_table_is_that_of_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = page(
        tmp_path,
        "a\n<!-- table small.json -->\n<!-- /table -->\nb\n<!-- table other.json#brief -->\n| old |\n<!-- /table -->\n",
    )
    for name, key, cell in (("small", "table", "1 | 2"), ("other", "brief", "3")):
        table = {"header": ["name", "score"], "rows": [[name, cell]]}
        write_json(tmp_path / "benchmarks" / "results" / f"{name}.json", {key: table})
    assert check_docs.main(["--no-run"], root=tmp_path) == 1
    assert "README.md: generated part is not current" in capsys.readouterr().out
    assert check_docs.main(["--fix"], root=tmp_path) == 0
    assert check_docs.main(["--no-run"], root=tmp_path) == 0
    text = readme.read_text(encoding="utf-8")
    assert "<!-- table small.json -->\n\n| name | score |\n| --- | ---: |\n| small | 1 \\| 2 |\n\n<!-- /table -->\nb\n" in text
    assert "| other | 3 |" in text
    assert "old" not in text
