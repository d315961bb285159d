"""Docstrings of packages in a made-up site-packages."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from prune2vec.data.docstrings import mine_docstrings, split_docstring
from prune2vec.errors import DataError

BODY = "The {0} body tells at some length what {0} does, for whom, and under which conditions {0} may fail."

MODULE = '''
"""A module about {0}.

{1}
"""
raise RuntimeError("a mined file must never be imported")

class Thing:
    """Hold all of {0}.

    {2}
    """

    if True:
        async def method(self):
            r"""Await the {0} method \\d.

            {3}
            """

try:
    def unlucky():
        """No body here."""
except ImportError:
    def fallback(x):
        """Fall back to {0}.

        {4}
        """
'''


def _module(word: str) -> str:
    return MODULE.format(word, *(BODY.format(f"{word}{number}") for number in range(4)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for package in ("alpha", "beta"):
        folder = tmp_path / package
        (folder / "tests").mkdir(parents=True)
        (folder / "__init__.py").write_text(_module(package), encoding="utf-8")
        (folder / "tests" / "test_it.py").write_text(_module("tested" + package), encoding="utf-8")
    (tmp_path / "beta" / "sub.py").write_text(_module("gamma"), encoding="utf-8")
    (tmp_path / "beta" / "broken.py").write_text('"""Broken.\n\nfoo"""\ndef (', encoding="utf-8")
    (tmp_path / "beta" / "nul.py").write_bytes(b'"""x"""\0')
    (tmp_path / "alone.py").write_text("# coding: latin-1\n" + _module("alone"), encoding="latin-1")
    info = tmp_path / "scikit_beta-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-beta\nVersion: 1.2\n", encoding="utf-8")
    (info / "RECORD").write_text("beta/__init__.py,,\nbeta/sub.py,,\n", encoding="utf-8")
    return tmp_path


def test_modules_classes_and_functions_are_found_with_their_names(root: Path) -> None:
    mined = mine_docstrings(root, packages=["alpha"])
    found = {name: (row.anchor, row.positive) for name, row in zip(mined.names, mined.triplets, strict=True)}
    assert found == {
        "alpha": ("A module about alpha.", BODY.format("alpha0")),
        "alpha.Thing": ("Hold all of alpha.", BODY.format("alpha1")),
        "alpha.Thing.method": (r"Await the alpha method \d.", BODY.format("alpha2")),
        "alpha.fallback": ("Fall back to alpha.", BODY.format("alpha3")),
    }


def test_groups_are_distributions_and_tests_and_broken_files_are_left_out(root: Path) -> None:
    mined = mine_docstrings(root)
    assert {row.group for row in mined.triplets} == {"alone", "alpha", "scikit-beta"}
    assert not any("tested" in row.anchor for row in mined.triplets)
    assert (len(mined), mined.files, mined.unreadable) == (16, 6, 2)
    assert mined.versions == {"scikit-beta": "1.2"}
    assert {"alone.Thing", "beta.sub", "beta.sub.fallback"} <= set(mined.names)


def test_packages_are_chosen_by_either_name_and_typos_are_told(root: Path) -> None:
    assert mine_docstrings(root, packages=["beta"]) == mine_docstrings(root, packages=["scikit-beta"])
    with pytest.raises(DataError, match=r"no package 'alhpa' in .*did you mean 'alpha'"):
        mine_docstrings(root, packages=["alhpa"])


def test_limit_stops_and_the_seed_decides_where(root: Path) -> None:
    few = mine_docstrings(root, max_pairs=3, seed=1)
    assert len(few) == 3
    assert few == mine_docstrings(root, max_pairs=3, seed=1)
    assert len({mine_docstrings(root, max_pairs=3, seed=seed).names for seed in range(8)}) > 1


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        mine_docstrings(tmp_path / "gone")
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(DataError, match="no docstrings of summary and body in 1 Python files"):
        mine_docstrings(tmp_path)


def test_garbage_collection_is_on_afterwards(root: Path) -> None:
    mine_docstrings(root)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("docstring", "pair"),
    [
        ("Sum up.", None),
        ("Parameters\n----------\nx : int\n\nThe rest.", None),
        (":param x: what\n\nThe rest.", None),
        ("Sum up.\n\n    \n", None),
        ("Sum\nup.\n\nThe rest\n  of it.", ("Sum up.", "The rest of it.")),
        ("Sum up.\n\nSee :class:`~torch.Tensor` and ``x``.", ("Sum up.", "See torch.Tensor and x.")),
        ("Sum up.\n\nA\n\n>>> f(1)\n2\n\nB", ("Sum up.", "A B")),
        ("Sum up.\n\nA\n\n```python\nf(1)\n```\nB", ("Sum up.", "A B")),
        ("Sum up.\n\nReturns\n-------\nint\n\n.. note:: x\n\nNotes\n-----\nB", ("Sum up.", "Returns int B")),
    ],
)
def test_docstrings_are_split_and_cleaned(docstring: str, pair: tuple[str, str] | None) -> None:
    assert split_docstring(docstring) == pair
