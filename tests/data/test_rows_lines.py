"""Reading lines: encodings and damaged archives."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from prune2vec.data.rows import read_lines
from prune2vec.errors import DataError


def test_plain_and_gzipped_lines_are_the_same(tmp_path: Path) -> None:
    data = "eins\nzwei ä\n\ndrei".encode()
    plain, packed = tmp_path / "x.txt", tmp_path / "x.txt.gz"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    assert list(read_lines(plain)) == list(read_lines(packed)) == [(1, "eins\n"), (2, "zwei ä\n"), (3, "\n"), (4, "drei")]


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfa\n")
    assert list(read_lines(path)) == [(1, "a\n")]


def test_wrong_encoding_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"x\.txt:2: not UTF-8 \(byte 0xe9 at position 3\); save the file as UTF-8"):
        list(read_lines(path))


@pytest.mark.parametrize(("damage", "line"), [("not gzip", "1"), ("cut", r"\d+"), ("flipped", "501")])
def test_broken_gzip_is_one_line(tmp_path: Path, damage: str, line: str) -> None:
    whole = bytearray(gzip.compress("".join(f"line {number**3}\n" for number in range(500)).encode()))
    if damage == "flipped":
        whole[-8] ^= 0xFF  # the checksum
    path = tmp_path / "x.gz"
    path.write_bytes({"not gzip": b"plain text", "cut": bytes(whole[:-20]), "flipped": bytes(whole)}[damage])
    with pytest.raises(DataError, match=rf"x\.gz:{line}: broken gzip file") as caught:
        list(read_lines(path))
    assert "\n" not in str(caught.value)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone: No such file"):
        list(read_lines(tmp_path / "gone"))


@pytest.mark.parametrize("content", [b"a\nb\0c\n", "a\nb\n".encode("utf-16-le")])
def test_nul_bytes_are_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.txt:[12]: holds a NUL byte"):
        list(read_lines(tmp_path / "x.txt"))
