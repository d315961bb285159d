"""The folder's files are the ones that old and new runtimes agree on."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from prune2vec.pruning.portable import legacy_rope_entries, write_tokenizer
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import FAMILIES, save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("portable")
    model = save_tiny(root / "m")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    return prune_model(str(model), plan_for(model, range(2)), root / "out", max_length=128, pooling="mean", instruction="find")


def read(folder: Path, name: str) -> object:
    return json.loads((folder / name).read_text())


def test_module_types_are_those_of_all_releases(folder: Path) -> None:
    assert [module["type"] for module in read(folder, "modules.json")] == [  # type: ignore[attr-defined]
        f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")
    ]
    assert read(folder, "sentence_bert_config.json") == {"max_seq_length": 128, "do_lower_case": False}


def test_pooling_is_spelt_out(folder: Path) -> None:
    config = read(folder, "1_Pooling/config.json")
    assert config == {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": False,
        "include_prompt": False,
    }


def test_config_has_what_transformers_4_reads(folder: Path) -> None:
    config = read(folder, "config.json")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]  # type: ignore[index]
    assert config["architectures"] == ["LlamaModel"]  # type: ignore[index]
    assert config["num_hidden_layers"] == 2  # type: ignore[index]


def test_no_chat_template_is_left_to_be_applied_silently(folder: Path) -> None:
    assert not (folder / "chat_template.jinja").exists()
    assert "chat_template" not in read(folder, "tokenizer_config.json")  # type: ignore[operator]
    assert AutoTokenizer.from_pretrained(folder).chat_template is None


def test_tokeniser_class_is_known_everywhere(folder: Path) -> None:
    config = read(folder, "tokenizer_config.json")
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # type: ignore[index]
    assert config["model_max_length"] == 128  # type: ignore[index]
    assert set(AutoTokenizer.from_pretrained(folder)("quick")) == {"input_ids", "attention_mask"}


def test_merges_are_in_the_form_that_older_tokenisers_read_too(folder: Path) -> None:
    written = read(folder, "tokenizer.json")["model"]["merges"]  # type: ignore[index]
    assert written
    assert all(isinstance(pair, str) and pair.count(" ") == 1 for pair in written)
    source = Tokenizer.from_file(str(folder.parent / "m" / "tokenizer.json"))
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).to_str() == source.to_str()


def test_merges_of_tokens_with_blanks_stay_pairs(tmp_path: Path) -> None:
    model = BPE(vocab={"a": 0, " ": 1, "a ": 2, "b": 3, "a b": 4}, merges=[("a", " "), ("a ", "b")])
    write_tokenizer(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model)), tmp_path, max_length=8)
    assert read(tmp_path, "tokenizer.json")["model"]["merges"] == [["a", " "], ["a ", "b"]]  # type: ignore[index]
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a b").ids == [4]


def test_prompts_and_similarity(folder: Path) -> None:
    config = read(folder, "config_sentence_transformers.json")
    # sentence-transformers before 5 pools wrong tokens behind an empty one.
    assert config["prompts"] == {"query": "find\n"}  # type: ignore[index]
    assert config["similarity_fn_name"] == "cosine"  # type: ignore[index]


def test_model_card_has_a_pruning_section(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "## Pruning" in card
    assert "kept layers (0-based, of 5): 0, 1" in card
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, {}),
        ({"rope_type": "default", "rope_theta": 5.0}, {"rope_theta": 5.0}),
        (
            {"rope_type": "llama3", "rope_theta": 5.0, "factor": 8.0},
            {"rope_theta": 5.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ),
        (
            {"rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 0.5},
            {"rope_theta": 5.0, "partial_rotary_factor": 0.5},
        ),
        (
            {"full_attention": {"rope_type": "default", "rope_theta": 9.0}, "sliding_attention": {"rope_theta": 3.0}},
            {"rope_theta": 9.0, "rope_local_base_freq": 3.0},
        ),
    ],
)
def test_rotary_entries_of_older_releases(parameters: dict[str, object] | None, expected: dict[str, object]) -> None:
    assert legacy_rope_entries({"rope_parameters": parameters}) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rotary_family_states_its_base_frequency(tmp_path: Path, family: str) -> None:
    model = save_tiny(tmp_path / "m", family)
    out = prune_model(str(model), plan_for(model, [0]), tmp_path / "out", max_length=64)
    config = json.loads((out / "config.json").read_text())
    stated = "rope_theta" in config or {"global_rope_theta", "local_rope_theta"} <= config.keys()
    assert stated == bool(config.get("rope_parameters"))


@pytest.mark.parametrize(
    ("keep", "number"),
    [([0, 1, 2, 3, 4], 3), ([0, 3], 1), ([0, 2, 3], 2), ([0, 1, 3, 4], 2), ([0, 1, 2, 4], 4), ([0, 3, 4], 0)],
)
def test_the_pattern_of_modernbert_is_told_to_older_releases(tmp_path: Path, keep: list[int], number: int) -> None:
    model = save_tiny(tmp_path / "m", "modernbert")
    out = prune_model(str(model), plan_for(model, keep), tmp_path / "out", max_length=64)
    config = json.loads((out / "config.json").read_text())
    assert config["global_attn_every_n_layers"] == number
    if number:
        assert [layer % number == 0 for layer in range(len(keep))] == [
            kind == "full_attention" for kind in config["layer_types"]
        ]
    assert config["layer_types"] == AutoConfig.from_pretrained(out).layer_types
