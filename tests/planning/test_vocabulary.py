"""Which tokens a plan keeps: by number, by share and by budget; counted on texts, with prompts and roles."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from prune2vec.errors import ConfigError, DataError, ModelError, PlanError, UnsupportedModel
from prune2vec.models.kept import Kept
from prune2vec.models.text_settings import TextSettings
from prune2vec.models.token_kinds import TokenVocabulary
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.plan_view import plan_figures, render_plan
from prune2vec.planning.planner import make_plan
from prune2vec.planning.vocabulary import CountedTokens, VocabularyOptions
from prune2vec.profiling.profile import Profile
from tests.planning.made import curve_with_minima, made_profile
from tests.token_samples import KINDS, TEXTS, sample_tokenizer

ROW = 32
PAD = 40


def measured(folder: Path, kind: str = "byte-level", **text: Any) -> Profile:
    """Write a model's small files and a corpus into ``folder``; return the profile of an 8-layer model with some padded rows."""
    folder.mkdir(exist_ok=True)
    tokenizer = sample_tokenizer(kind)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": [2, 5], "pad_token_id": 0}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"unk_token": {"content": "<unk>"}, "bos_token": "<s>"}))
    (folder / "corpus.txt").write_text("\n".join(text.replace("\n", " ") for text in TEXTS))
    profile = made_profile(curve_with_minima(8, 2, 6))
    rows = tokenizer.get_vocab_size() + PAD
    shape = replace(profile.shape, embedding_params=rows * ROW + 100, token_rows=rows, token_params=ROW)
    return replace(profile, shape=shape, model={**profile.model, "name": str(folder)}, text=TextSettings(**text))


def plan_of(profile: Profile, vocabulary: object = None, **rest: Any) -> PruningPlan:
    texts = str(Path(str(profile.model["name"])) / "corpus.txt")
    options = {"texts": texts, **({} if vocabulary is None else {"vocabulary": vocabulary})}
    return make_plan(profile, vocabulary=options, **{"method": "depth", "depth": 8, **rest})


def kept_names(profile: Profile, plan: PruningPlan) -> set[str]:
    tokenizer = Tokenizer.from_file(str(Path(str(profile.model["name"])) / "tokenizer.json"))
    assert plan.vocabulary is not None
    return {str(tokenizer.id_to_token(number)) for number in plan.vocabulary.kept}


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_of_tokens(tmp_path: Path, kind: str) -> None:
    profile = measured(tmp_path / "m", kind)
    size = min(450, profile.shape.token_rows - PAD - 5)
    plan = plan_of(profile, size)
    cut = plan.vocabulary
    assert cut is not None
    assert len(cut.kept) == size
    vocabulary = TokenVocabulary(sample_tokenizer(kind), "m")
    assert all(vocabulary.parts(number) <= set(cut.kept) for number in cut.kept)
    assert {"<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|beyond|>"} <= kept_names(profile, plan)
    assert cut.digest == vocabulary.digest(cut.kept)
    # Told as it is: by a loop over the texts, with the tokeniser that prune will write.
    whole, trimmed = vocabulary.backend, vocabulary.trimmed(cut.kept)
    texts = (tmp_path / "m" / "corpus.txt").read_text().split("\n")
    assert cut.texts == len(texts)
    assert cut.changed == sum(whole.encode(text).tokens != trimmed.encode(text).tokens for text in texts)
    assert cut.tokens_before == sum(len(whole.encode(text).ids) for text in texts)
    assert cut.tokens_after == sum(len(trimmed.encode(text).ids) for text in texts)


def test_all_tokens_that_there_are_when_more_are_asked_for(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m")
    plan = plan_of(profile, "32k")
    assert plan.vocabulary is not None
    assert len(plan.vocabulary.kept) == profile.shape.token_rows - PAD
    assert (plan.vocabulary.changed, plan.vocabulary.tokens_after) == (0, plan.vocabulary.tokens_before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", ["70%", "0.95", "100%"])
def test_a_share_of_the_tokens(tmp_path: Path, kind: str, share: str) -> None:
    plan = plan_of(measured(tmp_path / "m", kind), share)
    counts: Counter[int] = Counter()
    for text in (tmp_path / "m" / "corpus.txt").read_text().split("\n"):
        counts.update(sample_tokenizer(kind).encode(text).ids)
    assert plan.vocabulary is not None
    covered = sum(counts[number] for number in plan.vocabulary.kept)
    wanted = {"70%": 0.7, "0.95": 0.95, "100%": 1}[share]
    assert covered >= wanted * counts.total()
    assert plan.parameters["vocabulary"] == {"0.95": "95%"}.get(share, share)
    if wanted == 1:
        assert plan.vocabulary.changed == 0


def test_tokens_are_counted_as_an_encoder_in_lower_case_reads_them(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m", lower_case=True)
    corpus = tmp_path / "m" / "corpus.txt"
    corpus.write_text("\n".join(["THE QUICK BROWN FOX", "Jumps Over"]))
    plan = plan_of(profile, "100%")
    corpus.write_text(corpus.read_text().lower())
    assert plan.vocabulary == plan_of(profile, "100%").vocabulary
    assert plan.vocabulary != plan_of(measured(tmp_path / "other"), "100%").vocabulary


def counted(counts: dict[int, int], kind: str = "byte-level") -> CountedTokens:
    vocabulary = TokenVocabulary(sample_tokenizer(kind), "m")
    return CountedTokens(
        tokens=vocabulary,
        counts={number: counts.get(number, 0) for number in vocabulary.tokens},
        always=frozenset(vocabulary.required([], counts)),
        options=VocabularyOptions(),
        text=TextSettings(max_length=64),
    )


@given(counts=st.dictionaries(st.integers(0, 690), st.integers(1, 50)), size=st.integers(300, 720), share=st.fractions(0, 1))
@settings(max_examples=50)
def test_the_most_frequent_ones_stay(counts: dict[int, int], size: int, share: Fraction) -> None:
    made = counted(counts)
    kept = set(made.most(size))
    assert len(kept) == min(size, len(made.counts))
    # One that went is no more frequent than the least frequent one that was taken for itself, unless its parts had no room.
    gone = [number for number in made.counts if number not in kept]
    assert all(len(made.tokens.parts(number) - kept) >= 1 for number in gone)
    few = set(made.covering(share))
    assert sum(counts.get(number, 0) for number in few) >= share * sum(counts.values())
    ranked = sorted(made.counts, key=lambda number: (-made.counts[number], number))
    taken = [number for number in ranked if number in few]
    first_gone = next((number for number in ranked if number not in few), None)
    if first_gone is not None:
        # All more frequent ones are there; behind it only what they are made of, and what always stays.
        extra = set(taken) - set(ranked[: ranked.index(first_gone)])
        whole = {part for number in (*ranked[: ranked.index(first_gone)], *made.always) for part in made.tokens.parts(number)}
        assert extra <= whole


def test_too_few_tokens_say_how_many_it_takes(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"a vocabulary of 100 tokens is too small: .* are 2\d\d; give that many or more"):
        plan_of(measured(tmp_path / "m"), 100)


def test_texts_without_a_token_are_refused_before_a_plan_is_written(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m")
    (tmp_path / "m" / "corpus.txt").write_text("")
    (tmp_path / "plan.json").write_text("")
    with pytest.raises(DataError, match=r"corpus\.txt"):
        plan_of(profile, output=tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_text() == ""


def test_prompts_and_roles_stay(tmp_path: Path) -> None:
    prompts = {"query": "Find: prune2vec ", "document": "<added>"}
    profile = measured(tmp_path / "m", instruction="saved", prompts=prompts)
    plan = plan_of(profile, "1%")
    whole = sample_tokenizer("byte-level")
    assert plan.vocabulary is not None
    for prompt in prompts.values():
        assert set(whole.encode(prompt).ids) <= set(plan.vocabulary.kept)
    # 5 is one of two ends of a text in config.json.
    assert {0, 2, 5} <= set(plan.vocabulary.kept)
    literal = plan_of(measured(tmp_path / "n", instruction="sing in the morning"), "1%")
    assert literal.vocabulary is not None
    assert set(whole.encode("sing in the morning\n").ids) <= set(literal.vocabulary.kept)


def test_texts_are_cut_where_the_encoder_cuts_them(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m", max_length=8)
    plan = plan_of(profile, 450)
    assert plan.vocabulary is not None
    assert plan.vocabulary.tokens_before <= 8 * plan.vocabulary.texts


def test_a_budget_takes_from_the_vocabulary_first(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m")
    shape, whole = profile.shape, profile.shape.params(range(8))
    plan = plan_of(profile, budget={"max_params": whole - 50 * ROW})
    assert plan.keep_layers == tuple(range(8))
    assert plan.vocabulary is not None
    assert len(plan.vocabulary.kept) == shape.token_rows - 50
    assert shape.params(plan.kept) == whole - 50 * ROW
    assert plan_figures(plan)["params_cut"] == {"layers": 0, "inside layers": 0, "vocabulary": 50 * ROW}


def test_a_budget_takes_from_the_blocks_what_the_vocabulary_cannot_give(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m")
    enough = plan_of(profile, "99.9%").vocabulary
    assert enough is not None
    least = profile.shape.params(Kept(layers=tuple(range(8)), vocabulary=len(enough.kept)))
    for method, parameters in (
        ("depth", {"depth": 8}),
        ("l3prune", {"depth": None}),
        ("effir", {"depth": None}),
        ("drop", {"depth": None}),
    ):
        given_parameters: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
        plan = make_plan(
            profile,
            method=method,
            budget={"max_params": least - 2500},
            vocabulary={"texts": str(tmp_path / "m" / "corpus.txt")},
            **given_parameters,
        )
        assert profile.shape.params(plan.kept) <= least - 2500
        assert plan.vocabulary is not None
        if method == "depth":
            assert plan.vocabulary.kept == enough.kept
            assert len(plan.keep_layers) < 8
        cut = plan_figures(plan)["params_cut"]
        assert sum(cut.values()) == profile.shape.params(range(8)) - profile.shape.params(plan.kept)


def test_a_budget_that_is_met_anyway_takes_nothing(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m")
    assert plan_of(profile, budget={"max_params": profile.shape.params(range(8))}).vocabulary is None
    assert plan_of(profile, "all").vocabulary is None
    assert make_plan(profile, method="depth", depth=8).vocabulary is None


def test_told_otherwise_the_vocabulary_is_as_asked(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m")
    plan = plan_of(profile, 600, budget={"max_params": profile.shape.params(range(8)) - 8000})
    assert plan.vocabulary is not None
    assert len(plan.vocabulary.kept) == 600
    assert len(plan.keep_layers) < 8


def test_written_shown_and_read_back(tmp_path: Path) -> None:
    plan = plan_of(measured(tmp_path / "m"), 450, output=tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    shown = render_plan(plan)
    cut = plan.vocabulary
    assert cut is not None
    assert f"tokens   450 of {plan.shape.token_rows}; {cut.changed / cut.texts:.2%} of {cut.texts} texts change" in shown
    assert "parameters that go: " in shown
    # As an earlier release wrote it.
    entries = json.loads((tmp_path / "plan.json").read_text())
    del entries["vocabulary"], entries["shape"]["token_rows"], entries["shape"]["token_params"]
    (tmp_path / "old.json").write_text(json.dumps(entries))
    old = PruningPlan.load(tmp_path / "old.json")
    assert (old.vocabulary, old.shape.token_rows) == (None, 0)


def test_impossible_tokens_are_refused(tmp_path: Path) -> None:
    plan = plan_of(measured(tmp_path / "m"), 450)
    assert plan.vocabulary is not None
    for kept in ((), (3, 2), (0, plan.shape.token_rows)):
        with pytest.raises(PlanError, match="the plan keeps impossible tokens"):
            replace(plan, vocabulary=replace(plan.vocabulary, kept=kept))


@pytest.mark.parametrize("value", ["0", "-3", "0%", "101%", "1.5", "many", "99.9.9%", "1e9", True, "100M"])
def test_what_is_no_vocabulary(value: object) -> None:
    with pytest.raises(ConfigError, match="vocabulary: vocabulary: expected"):
        VocabularyOptions.build({"vocabulary": value, "texts": "t"}, where="vocabulary")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("32k", 32000),
        (500, 500),
        ("99.9%", Fraction(999, 1000)),
        (0.5, Fraction(1, 2)),
        ("ALL", "all"),
        ("100%", 1),
        ("1.5k", 1500),
    ],
)
def test_vocabularies(value: object, read: object) -> None:
    found = VocabularyOptions.build({"vocabulary": value, "texts": "t"}, where="vocabulary").vocabulary
    assert found == read
    assert isinstance(found, type(read)) or value == "100%"


def test_several_sources(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m")
    (tmp_path / "more.txt").write_text("the other brother\n")
    texts = f"{tmp_path / 'm' / 'corpus.txt'}, {tmp_path / 'more.txt'}"
    plan = make_plan(profile, method="depth", depth=8, vocabulary={"texts": texts, "vocabulary": 450})
    assert plan.vocabulary is not None
    assert plan.vocabulary.texts == len(TEXTS) + 1
    assert plan.parameters["texts"] == texts


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    profile = measured(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"tokens are counted on texts, and none are given"):
        make_plan(profile, method="depth", depth=3, vocabulary={"vocabulary": 400})
    unknown = replace(profile, shape=replace(profile.shape, token_rows=0, token_params=0))
    with pytest.raises(PlanError, match=r"does not tell how many token embeddings .* measure it again"):
        plan_of(unknown, 450)
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        plan_of(profile, 450)
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"cannot read tokenizer\.json"):
        plan_of(profile, 450)
    word_level = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": word_level}))
    with pytest.raises(UnsupportedModel, match="WordLevel, whose vocabulary cannot be cut"):
        plan_of(profile, 450)
