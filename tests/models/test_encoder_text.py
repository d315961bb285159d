"""The files of an encoder that is given as the model: read as sentence-transformers does, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import CheckpointError, UnsupportedModel
from prune2vec.models.encoder_text import encoder_text_settings
from prune2vec.models.source import resolve_source
from prune2vec.models.text_settings import TextSettings
from tests.tiny import save_tiny, tiny_tokenizer

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
    }
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return encoder_text_settings(resolve_source(str(folder)), tiny_tokenizer(), context=64)


def test_settings_are_read(tmp_path: Path) -> None:
    found = settings_of(tmp_path / "m")
    assert found is not None
    assert (found.pooling, dict(found.prompts), found.default_prompt) == ("lasttoken", {"query": "q: "}, "query")


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
        ({"whole": {"truncate_dim": 8}}, UnsupportedModel, "truncate_dim"),
        ({"whole": {"similarity_fn_name": "euclidean"}}, UnsupportedModel, "compares vectors by euclidean"),
        ({"modules": [3]}, CheckpointError, "modules.json: 0: "),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, files: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        settings_of(tmp_path / "m", **files)
    assert "\n" not in str(caught.value)
