from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prune2vec.errors import ConfigError
from prune2vec.registry import Registry


def make() -> Registry[object]:
    registry: Registry[object] = Registry("thing")

    @registry.register("first")
    def first() -> None:
        """Do nothing."""

    @registry.register("second")
    def second() -> None:
        """Do nothing."""

    return registry


def test_parts_are_found_by_name_and_listed_sorted() -> None:
    registry = make()
    assert registry.get("second").__name__ == "second"  # type: ignore[attr-defined]
    assert registry.names() == tuple(registry) == ("first", "second")


def test_the_decorated_function_stays_what_it_was() -> None:
    registry: Registry[object] = Registry("thing")

    def part() -> int:
        return 3

    assert registry.register("part")(part) is part


def test_an_unknown_name_gives_the_close_match() -> None:
    with pytest.raises(ConfigError, match=r"^no thing is called 'frist'; did you mean 'first'\?$"):
        make().get("frist")


def test_a_name_can_be_taken_once() -> None:
    registry = make()
    with pytest.raises(ConfigError, match=r"^two things are called 'first'; rename one of them$"):
        registry.register("first")(test_a_name_can_be_taken_once)


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the import path that is forgotten after the test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def add_plugin(folder: Path, value: str) -> None:
    info = folder / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[prune2vec]\nplugged = {value}\n")


PART = "from shelf.registry import shelf\n\n@shelf.register({name!r})\ndef part():\n    return {name!r}\n"


def add_package(folder: Path) -> None:
    package = folder / "shelf"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text("from prune2vec.registry import Registry\nshelf = Registry('part', package='shelf')\n")
    (package / "beside.py").write_text(PART.format(name="beside"))


def test_modules_beside_the_registry_and_plug_ins_register_themselves_on_first_use(importable: Path) -> None:
    add_package(importable)
    (importable / "plugged.py").write_text(PART.format(name="from-plug-in"))
    add_plugin(importable, "plugged")
    from shelf.registry import shelf  # type: ignore[import-not-found]

    assert "shelf.beside" not in sys.modules
    assert shelf.names() == ("beside", "from-plug-in")
    assert shelf.get("from-plug-in")() == "from-plug-in"


@pytest.mark.parametrize("value", ["no_such_module_anywhere", "plugged:no_such_name"])
def test_a_broken_plug_in_is_one_line(importable: Path, value: str) -> None:
    (importable / "plugged.py").write_text("")
    add_plugin(importable, value)
    registry: Registry[object] = Registry("thing")
    # Asked again it is still broken, and must not be left out in silence.
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"^plug-in 'plugged' \([^\n]+\) cannot be loaded: [^\n]+; update or uninstall it$"
        ):
            registry.names()


@pytest.mark.parametrize(("code", "said"), [("1 +", "invalid syntax"), ("{}['key']", "KeyError: 'key'")])
def test_what_a_plug_in_raises_is_shown(importable: Path, code: str, said: str) -> None:
    (importable / "plugged.py").write_text(code)
    add_plugin(importable, "plugged")
    with pytest.raises(ConfigError, match=f"cannot be loaded: {said}"):
        Registry("thing").names()
