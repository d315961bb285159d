"""The model card: what others wrote stays what it is, and the head is what the hub reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.forward.pooling import EVERYWHERE
from prune2vec.models.source import ModelSource
from prune2vec.pruning.model_card import model_card, served_by, source_card
from prune2vec.pruning.parity import Parity
from prune2vec.pruning.portable import EncoderParts, describe_cut

COMMIT = "0" * 40
FIXED = {
    "library_name": "sentence-transformers",
    "pipeline_tag": "sentence-similarity",
    "tags": ["sentence-transformers", "feature-extraction", "prune2vec"],
}
EVIL = "x\n---\nlicense: mit\n<script>alert(1)</script>\x1b[31m\u202e| `a`"


@dataclass
class Parts:
    record: dict[str, Any]
    prompts: dict[str, str] = field(default_factory=dict)
    model: torch.nn.Module = field(default_factory=lambda: torch.nn.Linear(2, 2))
    layout: None = None
    pooling: str = "mean"
    max_length: int = 8
    heads: tuple[torch.nn.Module, ...] = ()
    truncate_dim: int | None = None
    similarity: str = "cosine"
    leaves_out_prompts: bool = False
    made_bidirectional: bool = False


def _card(record: dict[str, Any], *, name: str = "encoder", prompts: dict[str, str] | None = None) -> str:
    parts = cast("EncoderParts", Parts(record, prompts or {}))
    parity = Parity(texts=1, dtype="float32", max_difference=0.0, min_cosine=1.0, reference="the encoder in memory")
    return model_card(parts, parity, name=name)


def _head(card: str) -> Any:
    begin, head, body = card.split("---\n", 2)
    assert begin == ""
    assert body.startswith("\n# ")
    return yaml.safe_load(head)


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ({"name": "owner/name", "revision": COMMIT}, {"base_model": "owner/name"}),
        # A path with one slash looks like an id of the hub, and has no commit.
        ({"name": "models/x", "revision": None}, {}),
        ({"name": "/models/x", "revision": None}, {}),
        ({"name": "smollm2", "revision": None}, {}),
        ({"name": "owner/name\nlicense: mit", "revision": COMMIT}, {}),
        ({}, {}),
    ],
)
def test_only_a_model_of_the_hub_is_the_base(model: dict[str, Any], base: dict[str, str]) -> None:
    assert _head(_card({"model": model})) == {**FIXED, **base}


@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\n-:#'\"\x1b\u202e<>"))))
def test_no_name_or_text_gets_into_the_head_or_becomes_a_tag(text: str) -> None:
    plan = {"keep_layers": [0], "num_layers": 2, "method": text, "parameters": {"a": text}, "notes": [text]}
    record = {"model": {"name": text, "revision": COMMIT}, "plan": plan, "train": {text: text}}
    card = _card(record, name=text, prompts={"query": text})
    base = {"base_model": text} if "base_model:" in card.split("---\n")[1] else {}
    assert _head(card) == {**FIXED, **base}
    assert not set("<>\x1b\u202e") & set(card)


def test_a_name_with_line_breaks_tags_and_escapes_reads_as_it_is() -> None:
    card = _card({"model": {"name": EVIL, "revision": None}, "train": {"data": EVIL}}, name=EVIL)
    shown = "x --- license: mit &lt;script&gt;alert(1)&lt;/script&gt;\\\\x1b\\[31m\\\\u202e\\| \\`a\\`"
    assert f"\n# {shown}\n" in card
    assert f" cut from {shown} with prune2vec." in card
    assert f"\n- data: {shown}\n" in card
    assert _head(card) == FIXED


def test_whole_blocks_in_words() -> None:
    assert describe_cut({"keep_layers": [0, 1], "num_layers": 5}) == ["2 of 5 layers"]


def test_every_kind_of_cut_has_its_line() -> None:
    record = {
        "keep_layers": [0, 1, 3, 4],
        "num_layers": 5,
        "drop_attention": [3],
        "drop_mlp": [0, 1],
        "widths": {"3": 20, "4": 24},
    }
    assert describe_cut(record) == [
        "4 of 5 layers",
        "without the attention of layer 3",
        "without the MLP of layers 0, 1",
        "20 to 24 neurons in the MLP of layers 3, 4",
    ]


def test_one_width_in_words() -> None:
    record = {"keep_layers": [0], "num_layers": 1, "widths": {"0": 7}}
    assert describe_cut(record)[1] == "7 neurons in the MLP of layer 0"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("---\nlicense: mit\nbase_model: owner/base\ntags: [x]\n---\n# Name\n", {"license": "mit", "base_model": "owner/base"}),
        ("---\r\nlicense: gemma\r\nlanguage: [de, en]\r\n---\r\n", {"license": "gemma", "language": ["de", "en"]}),
        ("---\nlicense: [1, 2]\ndatasets: {a: b}\nlicense_name: 7\n---\n", {}),
        ("---\nlicense: [\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("# Name\n\n---\nlicense: mit\n---\n", {}),
        ("", {}),
        (None, {}),
    ],
)
def test_the_sources_card_says_the_licence(tmp_path: Path, text: str | None, wanted: dict[str, Any]) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text, newline="")
    found = source_card(ModelSource(name="x", location=str(tmp_path)))
    assert found == wanted
    assert _head(_card({"model": {}, "card": found})) == {**FIXED, **wanted}


def test_a_hub_model_is_the_base_before_what_its_card_names() -> None:
    record = {"model": {"name": "owner/name", "revision": COMMIT}, "card": {"base_model": "owner/other", "license": "mit"}}
    assert _head(_card(record)) == {**FIXED, "base_model": "owner/name", "license": "mit"}


def _pooled(pooling: str, *, prompts: bool, kept_in: bool = False) -> str:
    model = cast("Any", torch.nn.Linear(2, 2))
    model.config = None
    layout: Any = {"layout": ()}
    parts = EncoderParts(
        model=model,
        tokenizer=cast("Any", None),
        pooling=pooling,
        max_length=8,
        prompts={"query": "find "} if prompts else {"query": ""},
        include_prompt=kept_in,
    )
    parts.__dict__.update(layout)
    return served_by(parts)


def test_who_serves_it_depends_on_the_prompt_too() -> None:
    everywhere = _pooled("mean", prompts=False)
    assert everywhere == EVERYWHERE
    assert _pooled("lasttoken", prompts=True) == _pooled("mean", prompts=True, kept_in=True) == everywhere
    assert "pool its tokens" in _pooled("mean", prompts=True)
    weighted = _pooled("weightedmean", prompts=False)
    assert "no weighted mean" in weighted
    assert _pooled("weightedmean", prompts=True) == f"with prompts sentence-transformers 6 or newer; without {weighted}"
