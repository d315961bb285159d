"""The verb ``mine``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prune2vec.data.mine import mine
from prune2vec.data.reader import load_triplets
from prune2vec.data.rows import read_lines
from prune2vec.data.triplet import digest_texts
from prune2vec.errors import CheckpointError, ConfigError, DataError
from prune2vec.files import digest_tree

WORDS = ["amber", "birch", "cedar", "delta", "ember", "frost", "grove", "haven", "inlet", "jetty", "knoll", "ledge"]


def _body(word: str, number: int) -> str:
    other = " ".join(WORDS[(number + step) % len(WORDS)] for step in range(5))
    return f"The {word} text number{number} speaks of {other} and says plainly what happens to unit{number} at the end."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    for word in WORDS:
        sections = [f"# About {word} item{number}\n{_body(word, number)}\n" for number in range(5)]
        (docs / f"{word}.md").write_text("\n".join(sections), encoding="utf-8")
    return docs


def test_folder_holds_train_dev_corpus_and_manifest(folder: Path, tmp_path: Path) -> None:
    mined = mine(folder, tmp_path / "out", dev_fraction=0.2, negatives=2)
    train, dev = load_triplets(mined.train), load_triplets(mined.dev)
    assert (len(train), len(dev)) == (50, 10)
    assert load_triplets(mined.folder) == train
    assert all(len(row.negatives) == 2 for row in train + dev)
    assert mined.manifest == json.loads((mined.folder / "mined.json").read_text(encoding="utf-8"))
    assert mined.manifest["counts"] == {"pairs": 60, "train": 50, "dev": 10, "groups": 12}
    assert mined.manifest["digests"] == {"train": digest_texts(train), "dev": digest_texts(dev)}
    assert mined.manifest["settings"]["seed"] == 42
    documents = [json.loads(line) for _, line in read_lines(mined.corpus)]
    assert len({row["_id"] for row in documents}) == 60
    assert documents[0] == {
        "_id": "amber.md#About amber item0",
        "title": "About amber item0",
        "text": _body("amber", 0),
        "group": "amber.md",
    }


def test_no_text_of_a_held_out_file_is_seen_in_training(folder: Path, tmp_path: Path) -> None:
    mined = mine(folder, tmp_path / "out", dev_fraction=0.3)
    train, dev = load_triplets(mined.train), load_triplets(mined.dev)
    assert {row.group for row in train}.isdisjoint(row.group for row in dev)
    assert {row.group for row in dev} == set(mined.manifest["dev_groups"])
    assert {text for row in train for text in row.texts}.isdisjoint(text for row in dev for text in row.texts)


def test_the_same_command_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from prune2vec.data.mine import mine; mine(sys.argv[1], Path(sys.argv[2]))"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, folder, tmp_path / seed], check=True, env=environment, capture_output=True)
    assert digest_tree(tmp_path / "1") == digest_tree(tmp_path / "2")


def test_an_earlier_result_is_replaced_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    first = mine(folder, output)
    again = mine(folder, output, dev_fraction=0)
    assert not again.dev.exists()
    assert again.manifest["counts"]["train"] == first.manifest["counts"]["pairs"]
    with pytest.raises(CheckpointError, match=r"docs: it holds \S+, and no record that prune2vec wrote it"):
        mine(folder, folder)
    assert len(list(folder.iterdir())) == len(WORDS)
    with pytest.raises(CheckpointError, match="a file of that name is there"):
        mine(folder, folder / "amber.md")


def test_docstrings_are_mined_from_a_root(tmp_path: Path) -> None:
    for package in ("one", "two"):
        functions = [f'def f{n}():\n    """Do {package} work {n}.\n\n    {_body(package, n)}\n    """\n' for n in range(4)]
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / f"{package}.py").write_text("\n".join(functions), encoding="utf-8")
    mined = mine("docstrings", tmp_path / "out", root=tmp_path / "site", dev_fraction=0.5)
    assert mined.manifest["groups"] == {"one": 4, "two": 4}
    assert mined.manifest["source"] == "docstrings"


def test_pairs_alone(folder: Path, tmp_path: Path) -> None:
    mined = mine(folder, tmp_path / "out", negatives=0)
    assert mined.manifest["counts"]["train"] > 0 and not any(
        row.negatives for row in load_triplets(mined.train, require_negative=False)
    )


def test_settings_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="root and packages belong to the source 'docstrings'"):
        mine(folder, tmp_path / "out", packages=["numpy"])
    with pytest.raises(ConfigError, match=r"mine: max_pairs: .*greater than or equal to 1, got 0"):
        mine(folder, tmp_path / "out", max_pairs=0)
    with pytest.raises(ConfigError, match=r"mine: dev_fraction: .*less than 1, got 1"):
        mine(folder, tmp_path / "out", settings={"dev_fraction": 1.0})
    with pytest.raises(DataError, match=r"docstring: no such folder; .*did you mean 'docstrings'"):
        mine("docstring", tmp_path / "out")
    assert not (tmp_path / "out").exists()
