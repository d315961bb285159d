"""What is measured is what is built: a profile's loss is that of the vectors which the pruned encoder gives in stock code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, UnsupportedModel
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.pruning.prune import prune_model
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

ROWS = [
    Triplet(
        anchor=f"what is the number {n}", positive=f"the reader has seen {n * n} rows of the file", negatives=(f"a fox {n}",)
    )
    for n in range(8)
]
DEPTH = 3
CHAT = "{% for m in messages %}<|user|>\n{{ m['content'] }}</s>{% endfor %}"


def measured(model: Path, **settings: Any) -> Any:
    return profile_model(
        str(model), ROWS, groups=1, group_size=len(ROWS), sampling="file", dtype="float32", device="cpu", **settings
    )


def loss_of(encoder: SentenceTransformer) -> float:
    """Return the contrastive loss at scale 50 of the encoder's own query and document vectors, in float64."""

    def unit(texts: list[str], encode: Any) -> np.ndarray:
        vectors = encode(texts, show_progress_bar=False).astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    queries = unit([row.anchor for row in ROWS], encoder.encode_query)
    documents = unit([row.positive for row in ROWS] + [row.negatives[0] for row in ROWS], encoder.encode_document)
    scores = 50 * queries @ documents.T
    shifted = scores - scores.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - np.diag(shifted)))


def built(model: Path, profile: Any, folder: Path, **settings: Any) -> SentenceTransformer:
    plan = make_plan(profile, method="depth", depth=DEPTH)
    plan.save(folder.with_suffix(".json"))
    prune_model(str(model), PruningPlan.load(folder.with_suffix(".json")), folder, **settings)
    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "mean", "instruction": "find it"},
        {"instruction": "find it", "symmetric": "both", "append_eos": "on", "max_length": 12},
        {"pooling": "lasttoken", "instruction": "find it: ", "separator": "", "normalize": False},
        {"pooling": "lasttoken", "instruction": "effir", "max_length": 200},
        {"pooling": "mean", "wrapper": "chat"},
        {"wrapper": "chat", "instruction": "find it"},
        {"instruction": "None"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())) or "defaults",
)
def test_the_settings_of_the_profile_reach_the_folder(tmp_path: Path, settings: dict[str, Any], bos: bool) -> None:
    model = save_tiny(tmp_path / "m", "llama", bos=bos)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(model)
    profile = measured(model, **settings)
    encoder = built(model, profile, tmp_path / "out")
    assert loss_of(encoder) == pytest.approx(profile.layer_loss.loss[DEPTH - 1], abs=1e-4)
    assert len(encoder) == (3 if settings.get("normalize", True) else 2)
    assert json.loads((tmp_path / "out" / "prune2vec.json").read_text())["text"] == profile.text.model_dump(mode="json")


@pytest.mark.parametrize("instruction", ["none", "None", "", "e5"])
def test_none_and_e5_are_no_words(tmp_path: Path, instruction: str) -> None:
    model = save_tiny(tmp_path / "m")
    rows = [Triplet(anchor=f"q {n}", positive=f"p {n}", negatives=("n",), dataset="squad", line=n) for n in range(4)]
    profile = profile_model(str(model), rows, groups=1, group_size=4, dtype="float32", device="cpu", instruction=instruction)
    assert built(model, profile, tmp_path / "out").prompts == {"query": "", "document": ""}


def test_a_later_option_overrides_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny(tmp_path / "m")
    profile = measured(model, pooling="mean", instruction="find it")
    encoder = built(model, profile, tmp_path / "out", pooling="weightedmean", instruction="none")
    assert encoder.prompts == {"query": "", "document": ""}
    said = capsys.readouterr().err
    assert "pooling 'weightedmean' instead of 'mean'" in said
    assert "instruction 'none' instead of 'find it'" in said
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["text"]["pooling"] == "weightedmean"


def test_the_papers_pooling_measures_and_is_not_built(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m", bos=True)
    paper = measured(model, pooling="weightedmean-paper", instruction="find", separator="; ")
    assert paper.layer_loss != measured(model, instruction="find").layer_loss
    with pytest.raises(ConfigError, match="no runtime pools by"):
        built(model, paper, tmp_path / "out")


def test_what_cannot_be_built_is_refused_before_it_is_measured(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    with pytest.raises(ConfigError, match="does not end between two tokens"):
        measured(model, instruction="find", separator="; ")


# Encoders given as the model


def encoder_folder(folder: Path, *, pooling: str = "lasttoken", include_prompt: bool = True) -> Path:
    """Write an encoder as published ones look: its tokeniser ends texts with a token that is not EOS, its prompt in a colon."""
    tiny_model("qwen3").save_pretrained(folder)
    backend = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="$A:0 <pad>:0", pair="$A:0 <pad>:0 $B:1 <pad>:1", special_tokens=[("<pad>", 0)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", model_max_length=256, padding_side="left"
    ).save_pretrained(folder)
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [
        {"idx": n, "name": str(n), "path": "" if n == 0 else f"{n}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir()
    flags = {
        f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens", "weightedmean_tokens", "lasttoken")
    }
    flags["pooling_mode_lasttoken" if pooling == "lasttoken" else f"pooling_mode_{pooling}_tokens"] = True
    config = {"word_embedding_dimension": 32, **flags, "include_prompt": include_prompt}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 100, "do_lower_case": False}))
    prompts = {"query": "Instruct: find what answers the question\nQuery:", "document": "", "STS": "same: "}
    whole = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(whole))
    return folder


@pytest.mark.parametrize(
    "made",
    [{}, {"pooling": "mean"}, {"pooling": "weightedmean", "include_prompt": False}],
    ids=["lasttoken", "mean", "weighted"],
)
def test_an_encoder_comes_out_as_it_went_in(tmp_path: Path, made: dict[str, Any]) -> None:
    model = encoder_folder(tmp_path / "m", **made)
    if not made.get("include_prompt", True):
        # Its own prompt would merge with a text.
        whole = json.loads((model / "config_sentence_transformers.json").read_text())
        whole["prompts"] = {"query": "find\n", "document": ""}
        (model / "config_sentence_transformers.json").write_text(json.dumps(whole))
    profile = measured(model)
    original = SentenceTransformer(str(model), device="cpu")
    assert loss_of(original) == pytest.approx(profile.layer_loss.loss[-1], abs=1e-4)
    plan = make_plan(profile, method="depth", depth=5)
    encoder = SentenceTransformer(str(prune_model(str(model), plan, tmp_path / "out")), device="cpu")
    assert encoder.prompts == original.prompts
    assert encoder.max_seq_length == 100
    assert encoder.tokenizer("hello")["input_ids"] == original.tokenizer("hello")["input_ids"]
    texts = ["hello", "the reader has seen 12 rows " * 40, "x"]
    for encode in ("encode", "encode_query", "encode_document"):
        found = getattr(encoder, encode)(texts, show_progress_bar=False)
        np.testing.assert_allclose(found, getattr(original, encode)(texts, show_progress_bar=False), atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode(texts, prompt_name="query"), original.encode(texts, prompt_name="query"), atol=1e-5
    )


def test_what_an_option_changes_of_an_encoder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = measured(encoder_folder(tmp_path / "m"), pooling="mean", instruction="none")
    assert (profile.text.pooling, profile.text.prompts) == ("mean", {})
    assert "pooling 'mean' instead of 'lasttoken'; instruction 'none' instead of 'saved'" in capsys.readouterr().err


def test_what_a_cut_would_lose_is_refused(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "lstm")
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.LSTM"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsupportedModel, match="Transformer, Pooling, LSTM"):
        measured(folder)
    folder = encoder_folder(tmp_path / "cls")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["mean", "max"]}')
    with pytest.raises(UnsupportedModel, match="pools by mean and max"):
        measured(folder)
