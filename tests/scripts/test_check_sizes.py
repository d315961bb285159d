"""The size budget: breaches are found, the code has none."""

from __future__ import annotations

from pathlib import Path

from scripts import check_sizes


def test_breaches_are_found(tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    file.write_text("def f(x) -> None:\n" + "    x = 1\n" * 61 + "\n" * 400, encoding="utf-8")
    found = check_sizes.faults([file])
    assert len(found) == 3
    assert "462 lines" in found[0]
    assert "62 lines, more than 60" in found[1]
    assert "has no type" in found[2]


def test_good_code_has_none(tmp_path: Path) -> None:
    file = tmp_path / "good.py"
    file.write_text(
        "class A:\n    def f(self, *rest: int, **more: str) -> None:\n        '''" + "Say.\n" * 70 + "'''\n", encoding="utf-8"
    )
    assert check_sizes.faults([file]) == []
