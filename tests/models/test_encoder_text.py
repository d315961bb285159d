"""The files of an encoder that is given as the model: read as sentence-transformers does, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from prune2vec.errors import CheckpointError, UnsupportedModel
from prune2vec.models.encoder_text import encoder_text_settings
from prune2vec.models.prepared_text import saved_prompts
from prune2vec.models.source import resolve_source
from prune2vec.models.text_settings import TextSettings
from tests.tiny import save_tiny, tiny_tokenizer
from tests.training.encoders import save_tiny_encoder

POOLING, WHOLE = "1_Pooling/config.json", "config_sentence_transformers.json"


def settings_of(folder: Path, **files: Any) -> TextSettings | None:
    """Return the settings of a folder with other contents of its pooling's file, the whole's or the modules'."""
    save_tiny(folder)
    types = ["Transformer", "Pooling", "Normalize"]
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{kind}" if place else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for place, kind in enumerate(types)
    ]
    (folder / "1_Pooling").mkdir()
    contents = {
        "modules.json": files.get("modules", modules),
        POOLING: files.get("pooling", {"pooling_mode": "lasttoken"}),
        WHOLE: files.get("whole", {"prompts": {"query": "q: "}, "default_prompt_name": "query"}),
        "sentence_bert_config.json": files.get("texts"),
        "README.md": files.get("card"),
    }
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return encoder_text_settings(resolve_source(str(folder)), tiny_tokenizer(), context=64)


def test_settings_are_read(tmp_path: Path) -> None:
    found = settings_of(tmp_path / "m")
    assert found is not None
    assert (found.pooling, dict(found.prompts), found.default_prompt) == (
        "lasttoken",
        {"query": "q: ", "document": ""},
        "query",
    )


@pytest.mark.parametrize(
    ("prompts", "default"),
    [({"query": "q: ", "passage": "p: "}, None), ({"x": "q: "}, "x"), ({"query": "q: ", "document": "d: "}, None), ({}, None)],
)
def test_queries_and_documents_get_the_prompts_that_sentence_transformers_gives_them(
    tmp_path: Path, prompts: dict[str, str], default: str | None
) -> None:
    folder = save_tiny_encoder(tmp_path / "m")
    whole = json.loads((folder / WHOLE).read_text())
    (folder / WHOLE).write_text(json.dumps({**whole, "prompts": prompts, "default_prompt_name": default}))
    found = encoder_text_settings(resolve_source(str(folder)), tiny_tokenizer(), context=64)
    assert found is not None
    query, document = saved_prompts(found.prompts, found.default_prompt)
    stock = SentenceTransformer(str(folder))
    assert dict(found.prompts) == stock.prompts
    np.testing.assert_allclose(stock.encode_query("a fox"), stock.encode("a fox", prompt=query), atol=1e-6)
    np.testing.assert_allclose(stock.encode_document("a fox"), stock.encode("a fox", prompt=document), atol=1e-6)


def test_an_encoder_of_ours_brings_its_instructions_by_data_set(tmp_path: Path) -> None:
    record = {"text": {"instruction": "e5", "symmetric": "paper", "separator": "\n"}}
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "prune2vec.json").write_text(json.dumps(record))
    found = settings_of(folder)
    assert found is not None
    assert (found.instruction, found.symmetric, dict(found.prompts)) == ("e5", "paper", {})


@pytest.mark.parametrize(
    "pooling",
    [{"pooling_mode_mean_tokens": True}, {"pooling_mode": None, "pooling_mode_mean_tokens": True}, {"pooling_mode": ["mean"]}],
)
def test_older_names_of_a_pooling(tmp_path: Path, pooling: dict[str, Any]) -> None:
    found = settings_of(tmp_path / "m", pooling=pooling)
    assert found is not None and found.pooling == "mean"


@pytest.mark.parametrize(
    ("files", "error", "match"),
    [
        ({"pooling": None}, CheckpointError, "1_Pooling/config.json is missing, though modules.json names it"),
        ({"pooling": {"pooling_mode_mean_tokens": False}}, CheckpointError, "names no pooling"),
        ({"pooling": {"pooling_mode": None}}, CheckpointError, "names no pooling"),
        ({"pooling": {"pooling_mode": ["mean", "lasttoken"]}}, UnsupportedModel, "pools by mean and lasttoken"),
        ({"whole": {"prompts": ["a"]}}, CheckpointError, "prompts: .*got .'a'."),
        ({"whole": {"prompts": {}, "default_prompt_name": "x"}}, CheckpointError, "'x', which is none of its prompts"),
        ({"whole": {"truncate_dim": 0}}, CheckpointError, "truncate_dim: Input should be greater than 0"),
        ({"whole": {"similarity_fn_name": "maxsim"}}, CheckpointError, "similarity_fn_name: .*got 'maxsim'"),
        ({"whole": {"model_type": "SparseEncoder"}}, UnsupportedModel, "is a SparseEncoder, whose scores are no vectors"),
        ({"texts": {"query_length": 32}}, UnsupportedModel, "says query_length 32, which changes texts or states"),
        ({"texts": {"modality_config": {"text": {}, "message": {}}}}, UnsupportedModel, "says modality_config"),
        ({"texts": {"config_args": {"is_causal": False}}}, UnsupportedModel, "says config_args: is_causal False"),
        ({"texts": {"processor_kwargs": {"add_eos_token": True}}}, UnsupportedModel, "processor_kwargs: add_eos_token True"),
        ({"modules": [3]}, CheckpointError, "modules.json: 0: "),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, files: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        settings_of(tmp_path / "m", **files)
    assert "\n" not in str(caught.value)


def test_vectors_are_cut_and_compared_as_the_files_say(tmp_path: Path) -> None:
    found = settings_of(tmp_path / "m", whole={"truncate_dim": 8, "similarity_fn_name": "euclidean"})
    assert found is not None
    assert (found.truncate_dim, found.similarity, found.normalize, found.append_eos) == (8, "euclidean", True, "off")


@pytest.mark.parametrize(
    ("texts", "length"),
    [
        ({"max_seq_length": 32}, 32),
        ({"max_seq_length": 32, "tokenizer_args": {"model_max_length": 16, "padding_side": "left"}}, 16),
        ({"model_args": {"attn_implementation": "eager"}}, 64),
    ],
)
def test_what_is_handed_on_to_transformers_counts_where_it_changes_texts(
    tmp_path: Path, texts: dict[str, Any], length: int
) -> None:
    found = settings_of(tmp_path / "m", texts=texts)
    assert found is not None and found.max_length == length


def test_the_file_on_texts_may_have_its_older_name(tmp_path: Path) -> None:
    settings_of(tmp_path / "m")
    (tmp_path / "m" / "sentence_roberta_config.json").write_text('{"max_seq_length": 40, "do_lower_case": true}')
    found = encoder_text_settings(resolve_source(str(tmp_path / "m")), tiny_tokenizer(), context=64)
    assert found is not None
    assert (found.max_length, found.lower_case) == (40, True)


def test_a_tokeniser_that_cuts_beginnings_is_refused(tmp_path: Path) -> None:
    settings_of(tmp_path / "m")
    tokenizer = tiny_tokenizer()
    tokenizer.truncation_side = "left"
    with pytest.raises(UnsupportedModel, match="cuts long texts at their beginning"):
        encoder_text_settings(resolve_source(str(tmp_path / "m")), tokenizer, context=64)


def test_dimensions_that_a_card_tells(tmp_path: Path) -> None:
    card = 'Some words.\n```json\n{\n    "loss": "MatryoshkaLoss",\n    "matryoshka_dims": [\n        32,\n        16\n    ]\n}\n```\n'
    found = settings_of(tmp_path / "m", card=card)
    assert found is not None and found.matryoshka_dims == (32, 16)
    other = settings_of(tmp_path / "other", card="Vectors may be cut to 512 or 256 dimensions.")
    assert other is not None and other.matryoshka_dims == ()
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [8, 24]}))
    again = encoder_text_settings(resolve_source(str(tmp_path / "other")), tiny_tokenizer(), context=64)
    assert again is not None and again.matryoshka_dims == (24, 8)
