from __future__ import annotations

from prune2vec.experiments.text_table import TextTable

TABLE = TextTable(("name", "n", "empty"), (("a", "1.0", ""), ("longer|x", "12.0", "")))


def test_text_is_aligned() -> None:
    assert TextTable(("name", "n"), (("a", "1.0"), ("longer", "12.0"))).to_text().splitlines() == [
        "name       n",
        "────────────",
        "a        1.0",
        "longer  12.0",
    ]


def test_markdown_escapes_bars() -> None:
    assert TABLE.without_empty_columns().to_markdown().splitlines() == [
        "| name | n |",
        "| --- | ---: |",
        "| a | 1.0 |",
        "| longer\\|x | 12.0 |",
    ]


def test_empty_columns_go() -> None:
    assert TABLE.without_empty_columns().header == ("name", "n")


def test_cells_keep_to_their_place() -> None:
    table = TextTable(("variant", "score"), (("a|b\n<i>\x1b", "1"),))
    assert table.to_markdown().splitlines()[-1] == "| a\\|b &lt;i&gt;\\\\x1b | 1 |"
    assert table.to_text().splitlines()[-1] == "a|b <i>\\x1b      1"
