"""The whole verb on plain texts, and on triplets beside a teacher: what is learnt, resumed, kept, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from prune2vec.cli.app import main
from prune2vec.data.triplet import write_triplets
from prune2vec.encoding.engine import Engine
from prune2vec.errors import CheckpointError, ConfigError, DataError
from prune2vec.files import digest_tree
from prune2vec.pruning.plain_encoder import load_to_encode
from prune2vec.training import teacher as teacher_module
from prune2vec.training.train import train_encoder
from tests.training.encoders import rows, save_tiny_encoder
from tests.training.test_teacher import count_rows
from tests.training.test_train import DATA, StopAt, assert_same_run, curve, weights

QUICK: dict[str, Any] = {
    "steps": 24,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "save_every": 8,
    "dtype": "float32",
    "device": "cpu",
}
FULL: dict[str, Any] = {**QUICK, "method": "full"}
PROMPTS = {"query": "find:\n", "document": ""}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines, some of which come twice, and a blank one."""
    file = tmp_path_factory.mktemp("texts") / "corpus.txt"
    texts = [text for row in rows(30) for text in row.texts]
    file.write_text("\n".join([*texts, "", *texts[:7]]) + "\n")
    return file


@pytest.fixture(scope="module")
def same_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("teacher") / "teacher", seed=5, layers=3)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("wide") / "teacher", seed=6, layers=3, hidden_size=48)


def vectors_of(folder: Path, corpus: Path, **how: Any) -> NDArray[np.float32]:
    texts = [line for line in corpus.read_text().splitlines() if line]
    found: NDArray[np.float32] = SentenceTransformer(str(folder), device="cpu").encode(texts, **how)
    return found


def test_an_encoder_draws_near_to_its_teacher_on_plain_texts(
    small: Path, same_size: Path, corpus: Path, tmp_path: Path
) -> None:
    result = train_encoder(small, None, tmp_path / "out", texts=corpus, teacher=same_size, **FULL)
    lines = curve(tmp_path / "out")
    assert {"contrastive"}.isdisjoint(lines[0]) and lines[-1]["distillation"] < 0.5 * lines[0]["distillation"]
    before, after, theirs = (vectors_of(folder, corpus) for folder in (small, tmp_path / "out", same_size))
    assert (after * theirs).sum(1).mean() > (before * theirs).sum(1).mean() + 0.2
    record = json.loads((tmp_path / "out" / "prune2vec.json").read_text())["train"]
    assert record["teacher"] == {"vectors": 90, "dimension": 32, "projection": False, "start": None}
    assert record["data"]["document"]["rows"] == 90, "each distinct text once"
    assert result.steps == 24 and sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.teacher"]
    saved = [SentenceTransformer(str(folder), device="cpu").prompts for folder in (small, tmp_path / "out")]
    assert saved[0] == saved[1], "plain texts say nothing about prompts"


@pytest.mark.parametrize("distil", ["vectors", "similarities"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_run_goes_on_exactly_projection_included(
    small: Path, wide: Path, corpus: Path, tmp_path: Path, distil: str, method: str
) -> None:
    settings = {**QUICK, "method": method, "distil": distil, "teacher_vectors": tmp_path / "kept", "teacher": wide}
    train_encoder(small, None, tmp_path / "whole", texts=corpus, **settings)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, None, tmp_path / "cut", texts=corpus, callbacks=[StopAt(19)], **settings)
    left = {path.name for path in (tmp_path / ".cut.training" / "checkpoint-16").iterdir()}
    assert ("projection.safetensors" in left) == (distil == "vectors")
    assert train_encoder(small, None, tmp_path / "cut", texts=corpus, **settings).resumed_from == 16
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert curve(tmp_path / "whole")[-1]["distillation"] < curve(tmp_path / "whole")[0]["distillation"]
    assert vectors_of(tmp_path / "whole", corpus).shape[1] == 32, "the projection is dropped"


def test_the_projection_is_learnt(small: Path, wide: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, None, tmp_path / "out", texts=corpus, teacher=wide, callbacks=[StopAt(17)], **QUICK)
    first, later = (
        load_file(tmp_path / ".out.training" / f"checkpoint-{step}" / "projection.safetensors")["weight"] for step in (8, 16)
    )
    assert first.shape == (48, 32) and not torch.equal(first, later)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_kept_projection_is_a_head_of_the_encoder(small: Path, wide: Path, corpus: Path, tmp_path: Path, method: str) -> None:
    settings = {**QUICK, "method": method, "teacher": wide, "teacher_vectors": tmp_path / "kept"}
    train_encoder(small, None, tmp_path / "without", texts=corpus, **settings)
    train_encoder(small, None, tmp_path / "with", texts=corpus, keep_projection=True, **settings)
    assert [line["loss"] for line in curve(tmp_path / "with")] == [line["loss"] for line in curve(tmp_path / "without")]
    found, own, theirs = (vectors_of(folder, corpus) for folder in (tmp_path / "with", tmp_path / "without", wide))
    encoder = SentenceTransformer(str(tmp_path / "with"), device="cpu")
    assert [type(module).__name__ for module in encoder] == ["Transformer", "Pooling", "Normalize", "Dense", "Normalize"]
    layer = encoder[3].linear
    by_hand = own @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    np.testing.assert_allclose(found, by_hand, atol=2e-6)
    # What was learnt is this cosine, to which the first loss is the distance of one batch.
    assert 1 - (found * theirs).sum(1).mean() < 0.6 * curve(tmp_path / "with")[0]["loss"]
    texts = [line for line in corpus.read_text().splitlines() if line]
    np.testing.assert_allclose(Engine(load_to_encode(str(tmp_path / "with"))).encode(texts), found, atol=1e-5)


def test_a_kept_projection_is_a_head_for_a_teacher_of_the_same_size_too(
    small: Path, same_size: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = {**QUICK, "steps": 2, "warmup_steps": 0, "keep_projection": True}
    train_encoder(small, None, tmp_path / "out", texts=corpus, teacher=same_size, **settings)
    kinds = [type(module).__name__ for module in SentenceTransformer(str(tmp_path / "out"), device="cpu")]
    assert kinds == ["Transformer", "Pooling", "Normalize", "Dense", "Normalize"]
    with pytest.raises(ConfigError, match="keep_projection needs a teacher and distil vectors"):
        train_encoder(small, None, tmp_path / "no", texts=corpus, teacher=same_size, distil="similarities", **settings)


@pytest.mark.parametrize("plain", [True, False])
def test_a_teacher_encodes_what_a_short_run_gets_to_and_no_more(
    small: Path, wide: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    data, how = (None, {**QUICK, "texts": corpus}) if plain else (rows(90), QUICK)
    every, few, same = (tmp_path / name for name in ("every", "few", "same"))
    train_encoder(small, data, every, teacher=wide, **how)
    encoded, short = count_rows(monkeypatch), {**how, "steps": 5, "save_every": 2}
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, data, few, teacher=wide, callbacks=[StopAt(3)], **short)
    assert train_encoder(small, data, few, teacher=wide, **short).resumed_from == 2
    counts = [json.loads((one / "prune2vec.json").read_text())["train"]["teacher"]["vectors"] for one in (few, every)]
    assert 5 * 8 <= counts[0] == len(encoded) <= 5 * 8 * (1 if plain else 3) < counts[1]
    # Who has the vectors of all texts learns the same, but for the rounding of vectors that were computed in other batches.
    train_encoder(small, data, same, teacher_vectors=every.with_name("every.teacher"), **short)
    losses = [[line["loss"] for line in curve(one)] for one in (few, same)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, tensor in weights(few).items():
        torch.testing.assert_close(tensor, weights(same)[name], rtol=0, atol=1e-5)


def test_vectors_that_exist_train_to_the_same_weights_without_their_teacher(
    small: Path, wide: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_encoder(small, None, tmp_path / "one", texts=corpus, teacher=wide, **QUICK)
    monkeypatch.setattr(teacher_module, "load_encoder", None)
    train_encoder(small, None, tmp_path / "two", texts=corpus, teacher_vectors=tmp_path / "one.teacher", **QUICK)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    again = train_encoder(small, None, tmp_path / "one", texts=corpus, teacher=wide, **QUICK)
    assert again.resumed_from == 24, "a finished run is found, and nothing is encoded for it"


def test_packing_off_learns_the_same(small: Path, same_size: Path, corpus: Path, tmp_path: Path) -> None:
    for packing in ("on", "off"):
        settings = {**QUICK, "steps": 4, "lora_dropout": 0.0, "packing": packing, "teacher_vectors": tmp_path / "kept"}
        train_encoder(small, None, tmp_path / packing, texts=corpus, teacher=same_size, **settings)
    for name, tensor in weights(tmp_path / "on").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "off")[name], atol=2e-4, rtol=0)


def test_a_teacher_of_another_tokeniser_is_as_good(small: Path, corpus: Path, tmp_path: Path) -> None:
    teacher = save_tiny_encoder(tmp_path / "teacher", seed=5, layers=3)
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    ours, theirs = (SentenceTransformer(str(folder), device="cpu").tokenizer for folder in (small, teacher))
    assert len(theirs("the fox").input_ids) > len(ours("the fox").input_ids)
    train_encoder(small, None, tmp_path / "out", texts=corpus, teacher=teacher, **FULL)
    target = vectors_of(teacher, corpus)
    before, after = ((vectors_of(folder, corpus) * target).sum(1).mean() for folder in (small, tmp_path / "out"))
    assert after > before + 0.2


def test_triplets_are_learnt_contrastively_and_from_a_teacher(small: Path, wide: Path, tmp_path: Path) -> None:
    train_encoder(small, DATA, tmp_path / "out", teacher=wide, **QUICK)
    lines = curve(tmp_path / "out")
    assert all(line["loss"] == pytest.approx(line["contrastive"] + line["distillation"], abs=2e-3) for line in lines)
    start = json.loads((tmp_path / "out" / "prune2vec.json").read_text())["train"]["teacher"]["start"]
    assert lines[-1]["distillation"] < 0.5 * (1 - start["cosine_before"]), "the projection starts near, and stays it"
    assert {path.name.partition("-")[0] for path in (tmp_path / "out.teacher").glob("[!.]*")} == {"query", "document"}


def with_prompts(folder: Path, prompts: dict[str, str]) -> Path:
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prompts": prompts}))
    return folder


def test_each_text_is_learnt_under_each_prompt(corpus: Path, tmp_path: Path) -> None:
    student = with_prompts(save_tiny_encoder(tmp_path / "student"), PROMPTS)
    teacher = with_prompts(save_tiny_encoder(tmp_path / "teacher", seed=5, layers=3), {**PROMPTS, "query": "look for:\n"})
    train_encoder(student, None, tmp_path / "out", texts=corpus, teacher=teacher, prompts=("query", "document"), **FULL)
    record = json.loads((tmp_path / "out" / "prune2vec.json").read_text())["train"]
    assert {name: (table["rows"], table["query_prompt"]) for name, table in record["data"].items()} == {
        "query": (90, "find:\n"),
        "document": (90, ""),
    }
    for ours, theirs in (("find:\n", "look for:\n"), ("", "")):
        target = vectors_of(teacher, corpus, prompt=theirs)
        before, after = (
            (vectors_of(folder, corpus, prompt=ours) * target).sum(1).mean() for folder in (student, tmp_path / "out")
        )
        assert after > before + 0.2


def test_an_instruction_for_triplets_is_the_teachers_too(small: Path, same_size: Path, tmp_path: Path) -> None:
    train_encoder(small, DATA, tmp_path / "out", teacher=same_size, instruction="Find it", **{**QUICK, "steps": 2})
    (place,) = (tmp_path / "out.teacher").glob("query-*/*.jsonl.gz")
    kept = place.with_name(place.name.removesuffix(".jsonl.gz"))
    found = teacher_module._read(kept, [])
    (text, row), *_ = found.rows.items()
    expected = SentenceTransformer(str(same_size), device="cpu").encode([text], prompt="Find it\n")
    np.testing.assert_allclose(found.vectors[row], expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "plain texts have nothing to learn without a teacher"),
        ({"distil": "data"}, "plain texts have nothing to learn without a teacher"),
        ({"teacher": "TEACHER", "distil": "scores"}, "distil 'scores' compares the documents of triplets"),
        ({"teacher": "TEACHER", "distil": "similarities", "batch_size": 2}, "leaves each text one other to be similar to"),
        ({"teacher": "TEACHER", "instruction": "Find it"}, "instruction 'Find it' is for triplets"),
        ({"teacher": "TEACHER", "prompts": ("STS",)}, "prompts: the encoder has no prompt 'STS'"),
        (
            {"teacher": "TEACHER", "prompts": ("query", "document")},
            "the encoder puts '' before texts under both query and document",
        ),
    ],
)
def test_settings_that_do_not_fit_plain_texts(
    small: Path, same_size: Path, corpus: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    given = {key: same_size if value == "TEACHER" else value for key, value in settings.items()}
    with pytest.raises(ConfigError, match=message):
        train_encoder(small, None, tmp_path / "out", texts=corpus, **{**QUICK, **given})
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused_before_the_first_step(small: Path, same_size: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"give either data .* or texts"):
        train_encoder(small, DATA, out, texts=corpus, **QUICK, teacher=same_size)
    with pytest.raises(ConfigError, match=r"give either data .* or texts"):
        train_encoder(small, None, out, **QUICK)
    with pytest.raises(ConfigError, match="prompts are for plain texts"):
        train_encoder(small, DATA, out, **QUICK, teacher=same_size, prompts=("query",))
    with pytest.raises(CheckpointError, match="no encoder at"):
        train_encoder(small, None, out, texts=corpus, **QUICK, teacher=tmp_path / "none")
    with pytest.raises(DataError, match=r"no data set has the 64 rows of one batch \(document has 20\)"):
        (tmp_path / "few.txt").write_text("\n".join(map(str, range(20))))
        train_encoder(small, None, out, texts=tmp_path / "few.txt", teacher=same_size)
    (tmp_path / "v.jsonl").write_text('{"text": "a", "vector": [1, 2]}\n')
    with pytest.raises(DataError, match=r"has no vector of 90 of 90 texts"):
        train_encoder(small, None, out, texts=corpus, **QUICK, teacher_vectors=tmp_path / "v.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.txt", "v.jsonl"]


def test_the_verb(small: Path, same_size: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(small), "--texts", str(corpus), "--teacher", str(same_size), "-o", str(tmp_path / "out")]
    how = ["--steps", "2", "--batch-size", "8", "--dtype", "float32", "--device", "cpu"]
    assert main([*words, *how, "--dry-run"]) == 0
    assert "distil = vectors" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert main([*words, *how]) == 0
    assert "2 steps" in capsys.readouterr().out
    assert main(words[:4] + words[6:]) == 1
    assert "plain texts have nothing to learn without a teacher" in capsys.readouterr().err
    assert main(words[:2] + words[4:]) == 2
    assert "give either --data (triplets) or --texts" in capsys.readouterr().err
    assert main([*words[:4], "--distil-from", str(same_size), *words[6:]]) == 2
    assert "no such option '--distil-from': it is called '--teacher' now" in capsys.readouterr().err
    assert main([*words, "--distil", "embeddings"]) == 2
    assert "'embeddings' is called 'vectors' now" in capsys.readouterr().err


def test_triplet_files_are_plain_texts_too(small: Path, same_size: Path, tmp_path: Path) -> None:
    write_triplets(rows(12, negatives=2), tmp_path / "train.jsonl")
    train_encoder(small, None, tmp_path / "out", texts=tmp_path, teacher=same_size, **{**QUICK, "steps": 2})
    record = json.loads((tmp_path / "out" / "prune2vec.json").read_text())["train"]
    assert record["data"]["document"]["rows"] == 48


def test_whole_vectors_are_learnt_of_an_encoder_that_cuts_its_own(
    small: Path, same_size: Path, wide: Path, corpus: Path, tmp_path: Path
) -> None:
    encoder = SentenceTransformer(str(small), device="cpu", truncate_dim=16)
    encoder.save_pretrained(str(tmp_path / "cut"), create_model_card=False)
    for teacher in (same_size, wide):
        found, whole = (tmp_path / f"{name}-{teacher.parent.name}" for name in ("cut", "whole"))
        train_encoder(tmp_path / "cut", None, found, texts=corpus, teacher=teacher, **FULL)
        train_encoder(small, None, whole, texts=corpus, teacher=teacher, **FULL)
        assert [step["loss"] for step in curve(found)] == [step["loss"] for step in curve(whole)]
        assert SentenceTransformer(str(found), device="cpu").encode("a text").shape == (16,)


def test_outputs_among_the_texts_are_not_read(small: Path, same_size: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("\n\n".join(text for row in rows(20) for text in row.texts))
    settings = {**FULL, "steps": 4, "save_every": 2, "teacher": same_size}
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, None, notes / "encoder", texts=notes, callbacks=[StopAt(1)], **settings)
    assert train_encoder(small, None, notes / "encoder", texts=notes, **settings).steps == 4
    record = json.loads((notes / "encoder" / "prune2vec.json").read_text())["train"]
    again = train_encoder(small, None, notes / "other", texts=notes, **settings)
    other = json.loads((notes / "other" / "prune2vec.json").read_text())["train"]
    assert again.steps == 4 and other["identity"]["data"] == record["identity"]["data"]
    assert_same_run(notes / "encoder", notes / "other")


@pytest.mark.parametrize("inside", ["teacher", "base", "output", "nowhere"])
def test_vectors_are_written_into_no_encoder(corpus: Path, tmp_path: Path, inside: str) -> None:
    base, teacher = (save_tiny_encoder(tmp_path / name, seed=seed) for name, seed in (("base", 1), ("teacher", 2)))
    place = {"teacher": teacher, "base": base, "output": tmp_path / "out", "nowhere": tmp_path}[inside] / "vectors"
    how = {**QUICK, "steps": 2, "teacher": str(teacher), "teacher_vectors": str(place)}
    if inside == "nowhere":
        for _ in range(2):
            train_encoder(base, None, tmp_path / "out", texts=corpus, **how)
        return
    before = digest_tree(tmp_path)
    message = "keep them elsewhere" if inside == "output" else "would be a change of it; name another output"
    with pytest.raises(ConfigError, match=message):
        train_encoder(base, None, tmp_path / "out", texts=corpus, **how)
    with pytest.raises(ConfigError, match="would be a change of it"):
        train_encoder(base, None, teacher / "student", texts=corpus, **{**how, "teacher_vectors": None})
    assert digest_tree(tmp_path) == before


def test_an_empty_folder_among_the_texts_becomes_ours(
    tmp_path: Path, same_size: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs" / "vectors").mkdir(parents=True)
    for number, row in enumerate(rows(20)):
        (tmp_path / "docs" / f"{number}.txt").write_text(" ".join(row.texts))
    small = save_tiny_encoder(tmp_path / "small")
    how = {**QUICK, "steps": 2, "teacher": str(same_size), "teacher_vectors": str(tmp_path / "docs" / "vectors")}
    once, again = (train_encoder(small, None, tmp_path / "out", texts=tmp_path / "docs", **how) for _ in range(2))
    assert once.resumed_from is None and again.resumed_from == 2
    assert "its tables are read" not in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file"):
        train_encoder(small, None, tmp_path / "other", texts=tmp_path / "docs", **{**how, "teacher_vectors": tmp_path / "file"})
