"""Mining a folder of documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.data.sections import mine_folder
from prune2vec.errors import DataError

BODY = "This section on {} has surely more than a dozen plain words, so that it is kept as a text."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / ".hidden").mkdir()
    markdown = f"# Big guide\n{BODY.format('all')}\n## Install\n{BODY.format('setup')}\n## Short\ntoo short\n"
    (docs / "a.md").write_text(markdown, encoding="utf-8")
    (docs / ".hidden" / "b.md").write_text(f"# Not seen\n{BODY.format('secret')}\n", encoding="utf-8")
    (docs / "deep" / "my_notes.RST").write_text(f"Use\n===\n{BODY.format('use')}\n", encoding="utf-8")
    (docs / "bad.txt").write_bytes(b"caf\xe9")
    (docs / "code.py").write_text("x = 1", encoding="utf-8")
    return docs


def test_headings_become_queries_and_files_groups(folder: Path) -> None:
    mined = mine_folder(folder)
    assert [(name, row.anchor, row.positive, row.group) for name, row in zip(mined.names, mined.triplets, strict=True)] == [
        ("a.md#Big guide", "a: Big guide", BODY.format("all"), "a.md"),
        ("a.md#Install", "Big guide: Install", BODY.format("setup"), "a.md"),
        ("deep/my_notes.RST#Use", "my notes: Use", BODY.format("use"), "deep/my_notes.RST"),
    ]
    assert (mined.files, mined.unreadable, mined.rejected) == (3, 1, {"text too short": 1})
    assert mined.triplets[0].dataset == "docs"


def test_limit(folder: Path) -> None:
    assert len(mine_folder(folder, max_pairs=2)) == 2


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        mine_folder(tmp_path / "gone")
    with pytest.raises(DataError, match=r"nothing to mine in 0 files; expected \.md"):
        mine_folder(tmp_path)
    (tmp_path / "short.md").write_text("# A heading\ntoo short\n# Another one\nshort too\n")
    with pytest.raises(
        DataError, match=r"nothing to mine in 1 files; 2 sections: text too short; expected \.md, .* of 12 words"
    ):
        mine_folder(tmp_path)


def test_words_without_blanks_between_them_are_counted(tmp_path: Path) -> None:
    (tmp_path / "zh.md").write_text("# 安装说明\n请先安装软件包，然后运行命令来训练模型。\n# 短\n太短了\n", encoding="utf-8")
    mined = mine_folder(tmp_path)
    assert [row.anchor for row in mined.triplets] == ["zh: 安装说明"] and mined.rejected == {"text too short": 1}
