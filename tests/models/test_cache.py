"""The cache of converted models: listed, cleared, and nothing else in it touched."""

from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="the gguf extra is not installed")

from prune2vec.errors import ConfigError
from prune2vec.files import write_json
from prune2vec.models.cache import cache_folder, clear_cache, kept_copies
from prune2vec.models.gguf import converted
from prune2vec.outputs import CONVERSION, locked
from prune2vec.outputs import RECORD as FILES
from tests.gguf_files import write_gguf


def test_no_cache_yet() -> None:
    assert kept_copies() == clear_cache() == []
    assert not cache_folder().exists()


def test_copies_are_listed_and_cleared(tmp_path: Path, own_cache: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf")
    (only,) = kept_copies()
    assert (only.folder, only.source) == (folder, "tiny.gguf")
    assert only.size == sum(file.stat().st_size for file in folder.iterdir()) > (folder / "model.safetensors").stat().st_size
    assert clear_cache() == [only]
    assert [path.name for path in own_cache.iterdir()] == []
    assert converted(tmp_path / "tiny.gguf") == folder


def test_only_what_was_written_is_deleted(tmp_path: Path, own_cache: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf")
    (folder / "notes.txt").write_text("mine")
    (own_cache / "thesis").mkdir()
    (own_cache / "thesis" / "conversion.json").write_text('{"my": "own"}')
    (own_cache / "letter.txt").write_text("mine")
    (own_cache / ".hidden").mkdir()
    killed = own_cache / ".tiny-0123456789abcdef-v2.partial-4242"
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(b"half")
    clear_cache()
    left = {path.relative_to(own_cache).as_posix() for path in own_cache.rglob("*") if path.is_file()}
    assert left == {"letter.txt", "thesis/conversion.json", f"{folder.name}/notes.txt"}
    assert (own_cache / ".hidden").is_dir()


def test_a_record_cannot_name_files_elsewhere(own_cache: Path) -> None:
    (own_cache / "copy").mkdir(parents=True)
    (own_cache / "letter.txt").write_text("mine")
    write_json(
        own_cache / "copy" / FILES,
        {"format": "prune2vec.files/1", "kind": CONVERSION, "files": {"../letter.txt": None, "config.json": None}},
    )
    (own_cache / "copy" / "config.json").write_text("{}")
    clear_cache()
    assert (own_cache / "letter.txt").is_file() and not (own_cache / "copy").exists()


def test_a_running_conversion_is_left_alone(own_cache: Path) -> None:
    with locked(own_cache / "copies"), pytest.raises(ConfigError, match="in use by another run"):
        clear_cache()


def test_a_clear_that_was_killed_is_finished_by_the_next(tmp_path: Path, own_cache: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf")
    (folder / "conversion.json").unlink()
    clear_cache()
    assert not folder.exists()
