"""Optional packages: what is missing is named with its extra; what is there and broken, with its own words."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from prune2vec.errors import _EXTRAS, MissingExtra, import_extra

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", sorted(_EXTRAS))
def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    extra, purpose = _EXTRAS[name]
    with pytest.raises(MissingExtra, match=rf"^{purpose} needs the package {name}; .*pip install 'prune2vec\[{extra}\]'$"):
        import_extra(name)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any(re.match(rf"{name}\b", requirement) for requirement in extras[extra])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import numpy_of_old_times", "No module named 'numpy_of_old_times'"),
        ("from json import no_such_name", "cannot import name 'no_such_name' from 'json'"),
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13: cannot open"),
    ],
)
def test_what_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    (tmp_path / "gguf.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "gguf", raising=False)
    with pytest.raises(MissingExtra, match=rf"which does not load \({re.escape(said)}"):
        import_extra("gguf")
