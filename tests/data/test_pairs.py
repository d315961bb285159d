"""What the collector keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.data.pairs import MAX_CHARS, MinedPairs, clip, text_key

BODY = "this body has quite enough plain words in it to be worth keeping around here"


def _collector(limit: int | None = None) -> MinedPairs:
    return MinedPairs(source="set", min_anchor_words=3, limit=limit)


def test_pairs_are_kept_on_one_line() -> None:
    collector = _collector()
    collector.add("Return  the\n norm.", BODY.replace(" ", "\n "), group="g", name="m.f")
    rows = collector.triplets
    assert collector.names == ("m.f",)
    assert (rows[0].anchor, rows[0].positive, rows[0].group, rows[0].dataset) == ("Return the norm.", BODY, "g", "set")


@pytest.mark.parametrize(
    ("anchor", "positive", "reason"),
    [
        ("Return it", BODY, "query too short or too long"),
        ("word " * 41, BODY, "query too short or too long"),
        ("1 2 3", BODY, "query too short or too long"),
        ("Return the norm.", "a b c d e f 1 2 3 4 5 6 7 8 9", "text too short"),
        ("return THE value", BODY + " and more", "duplicate"),
        ("Return another value", BODY.upper() + "!", "duplicate"),
    ],
)
def test_rejected_pairs_are_counted_by_reason(anchor: str, positive: str, reason: str) -> None:
    collector = _collector()
    collector.add("Return the value.", BODY, group="g", name="first")
    collector.add(anchor, positive, group="g", name="second")
    assert dict(collector.rejected) == {reason: 1}
    assert collector.names == ("first",)


def test_a_full_collector_takes_no_more() -> None:
    collector = _collector(limit=1)
    collector.add("Return the value.", BODY, group="g", name="first")
    assert collector.full
    collector.add("Return another value.", BODY + " and more", group="g", name="second")
    assert collector.names == ("first",)


def test_equal_names_are_told_apart_and_sorted_by_group() -> None:
    collector = _collector()
    for number, group in enumerate("bba"):
        collector.add(f"Return the value {number}.", f"{BODY} {number}", group=group, name="x")
    assert collector.names == ("x~3", "x", "x~2")


def test_long_texts_are_cut_at_a_blank() -> None:
    text = "abcdefg " * 400
    assert len(clip(text)) <= MAX_CHARS
    assert clip(text).endswith("abcdefg")
    assert len(clip("x" * 5000)) == MAX_CHARS


def test_keys_ignore_case_and_punctuation() -> None:
    assert text_key("It's `Fine`, really.") == text_key("it s fine REALLY")


def test_order_is_sorted_and_shuffled_only_under_a_limit(tmp_path: Path) -> None:
    files = [tmp_path / f"{n:02d}" for n in range(20)]
    for file in files:
        file.write_text("small")
    large = tmp_path / "large"
    large.write_bytes(b" " * (3 << 20))

    def visited(given: list[Path], limit: int | None) -> list[Path]:
        seen: list[Path] = []
        mined = MinedPairs(source="files", min_anchor_words=1, limit=limit)
        mined.read([*given, large], lambda path: seen.append(path), seed=1)
        assert (mined.files, mined.unreadable) == (20, 20), "what gives None could not be read"
        return seen

    assert visited(files[::-1], None) == files
    shuffled = visited(files, 5)
    assert shuffled != files
    assert sorted(shuffled) == files
    assert shuffled == visited(files[::-1], 5)
