"""prune on every family: the saved encoder is the truncated original, read from no more than the kept tensors."""

import itertools
import json
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from prune2vec.errors import CheckpointError, ConfigError, PlanError, UnsupportedModel
from prune2vec.files import digest_tree
from prune2vec.forward.pooling import pool, poolings
from prune2vec.models import families
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.cut import cut_model
from prune2vec.models.families import block_list, find_family
from prune2vec.models.kept import Kept
from prune2vec.pruning import portable as encoder_files
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.parity import PROBE_TEXTS
from prune2vec.pruning.prune import check_sub_layers_apart, prune_model
from tests.models.silence import plan_of
from tests.pruning.plans import check_reads, plan_for
from tests.tiny import FAMILIES, save_tiny, tiny_model, tiny_tokenizer


def truncated_original(model: Path, depth: int, pooling: str) -> np.ndarray:
    """Encode the probe texts with the whole original, whose blocks beyond ``depth`` pass their input through."""
    whole = AutoModel.from_pretrained(model).eval()
    for block in list(block_list(whole, find_family(whole, whole.config)))[depth:]:
        block.register_forward_hook(_pass_through, with_kwargs=True)
    # Not tiny_tokenizer(): transformers gives some architectures the pre-tokeniser of their own.
    tokenizer, vectors = AutoTokenizer.from_pretrained(model), []
    for text in PROBE_TEXTS:
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=128)["input_ids"]])
        ones = torch.ones_like(ids)
        with torch.inference_mode():
            states = whole(input_ids=ids, use_cache=False).last_hidden_state
        vectors.append(pool(states, poolings.get(pooling)(ones, ones)))
    return torch.nn.functional.normalize(torch.cat(vectors), dim=1).numpy()


def _pass_through(module: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> object:
    states = args[0] if args else kwargs["hidden_states"]
    return (states, *output[1:]) if isinstance(output, tuple) else states


@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_encoder_is_the_truncated_original(tmp_path: Path, family: str) -> None:
    model = save_tiny(tmp_path / "m", family)
    out = prune_model(str(model), plan_for(model, range(3)), tmp_path / "out", max_length=128)
    encoder = load_encoder(out, device="cpu", dtype="float32")
    vectors = encoder.encode(list(PROBE_TEXTS), batch_size=3)
    np.testing.assert_allclose(vectors, truncated_original(model, 3, "weightedmean"), atol=1e-6, rtol=0)
    assert json.loads((out / "parity.json").read_text())["max_difference"] <= 1e-6


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "smollm3", "gpt2"])
@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken"])
def test_every_pooling_with_and_without_instruction_and_bos(tmp_path: Path, family: str, pooling: str) -> None:
    model = save_tiny(tmp_path / "m", family, bos=True)
    out = prune_model(
        str(model), plan_for(model, [0, 2, 4]), tmp_path / "out", max_length=128, pooling=pooling, instruction="find it"
    )
    parity = json.loads((out / "parity.json").read_text())
    assert parity["texts"] == 2 * len(PROBE_TEXTS)
    assert parity["max_difference"] <= 1e-6


def test_chat_wrapper_is_saved_with_the_encoder(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    template = "{% for m in messages %}<|user|>\n{{ m['content'] }}</s>\n{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    out = prune_model(str(model), plan_for(model, range(3)), tmp_path / "out", max_length=128, wrapper="chat")
    encoder = load_encoder(out, device="cpu", dtype="float32")
    assert encoder.tokenizer.chat_template is None
    shown = encoder.preprocess(["quick fox"], prompt=encoder.prompts["document"])["input_ids"][0]
    assert encoder.tokenizer.decode(shown) == "<|user|>\nquick fox</s>"
    plain = encoder.encode("quick fox")
    np.testing.assert_allclose(plain, encoder.encode_document("quick fox"), atol=1e-6)


def test_only_the_kept_shards_are_opened(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m", max_shard_size="40KB")
    index = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
    kept = {name: file for name, file in index.items() if ".layers." not in name or int(name.split(".")[2]) < 2}
    kept.pop("lm_head.weight", None)
    plan = plan_for(model, range(2))
    check_reads(model, plan, kept)


def test_plan_of_another_depth(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    plan = plan_for(model, range(2))
    other = replace(plan, shape=replace(plan.shape, num_layers=7))
    with pytest.raises(PlanError, match="llama of 7 layers"):
        prune_model(str(model), other, tmp_path / "out", max_length=128)


def test_plan_of_another_model_of_the_same_shape(tmp_path: Path) -> None:
    first, second = save_tiny(tmp_path / "a"), save_tiny(tmp_path / "b", seed=1)
    with pytest.raises(PlanError, match="another model of the same shape"):
        prune_model(str(second), plan_for(first, range(2)), tmp_path / "out", max_length=128)


def test_nan_weights_name_tensor_and_layer(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight \(layer 1\) holds NaN"):
        prune_model(str(model), plan_for(model, range(2)), tmp_path / "out", max_length=128)
    assert not (tmp_path / "out").exists()
    assert prune_model(str(model), plan_for(model, [0]), tmp_path / "out", max_length=128).is_dir()


def test_prompt_that_swallows_the_first_word(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    with pytest.raises(ConfigError, match="line break"):
        prune_model(str(model), plan_for(model, [0]), tmp_path / "out", max_length=128, instruction="find", separator="; ")


def test_texts_are_cut_at_the_models_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny(tmp_path / "m")
    out = prune_model(str(model), plan_for(model, [0]), tmp_path / "out", max_length=512)
    assert load_encoder(out, device="cpu").max_seq_length == 256
    assert "cut at 256 tokens instead of 512" in capsys.readouterr().err


def test_folder_in_the_way(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(CheckpointError, match="cannot write"):
        prune_model(str(model), plan_for(model, [0]), tmp_path / "file" / "out", max_length=128)


def _limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_disk_full(tmp_path: Path) -> None:
    """A limit on file size stands for a full disk: writing the weights fails in the middle."""
    model = save_tiny(tmp_path / "m")
    plan_for(model, range(3)).save(tmp_path / "plan.json")
    code = (
        "import sys; from pathlib import Path; from prune2vec.pruning.prune import prune_model\n"
        "from prune2vec.errors import CheckpointError\n"
        "try: prune_model(sys.argv[1], sys.argv[2], Path(sys.argv[3]), max_length=128)\n"
        "except CheckpointError as error: print('ERROR:', error); sys.exit(1)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(model), str(tmp_path / "plan.json"), str(tmp_path / "out")],
        capture_output=True, text=True, preexec_fn=_limit_file_size, check=False,
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("ERROR:")]
    assert "cannot write" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "plan.json"]


@pytest.mark.parametrize("left", [0, 1, 3, 8])
def test_disk_full_at_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """No file can be written any more after the first few, among them tokenizer.json, which a library in Rust writes."""
    model = save_tiny(tmp_path / "m")
    plan = plan_for(model, range(3))
    writes = itertools.count()

    def full(write: Any) -> Any:
        def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
            if next(writes) >= left:
                raise (Exception if write is save_tokenizer else OSError)("No space left on device (os error 28)")
            return write(self, *args, **kwargs)

        return limited

    save_tokenizer = encoder_files.write_tokenizer
    for place, name in (
        (encoder_files, "write_tokenizer"),
        (encoder_files, "write_json"),
        (PreTrainedModel, "save_pretrained"),
    ):
        monkeypatch.setattr(place, name, full(getattr(place, name)))
    with pytest.raises(CheckpointError, match=rf"^cannot write {tmp_path / 'out'}: [^\n]*No space left on device"):
        prune_model(str(model), plan, tmp_path / "out", max_length=128)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_with_something_else_is_not_replaced(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    # A name of ours does not make a folder ours.
    (tmp_path / "out" / "prune2vec.json").write_text('{"format": "prune2vec.encoder/1"}')
    with pytest.raises(CheckpointError, match=r"it holds prune2vec\.json, and no record that prune2vec wrote it"):
        prune_model(str(model), plan_for(model, [0]), tmp_path / "out", max_length=128)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "onnx/model.onnx", ".git/HEAD"])
def test_an_older_encoder_to_which_the_user_added_something_is_not_replaced(tmp_path: Path, name: str) -> None:
    model = save_tiny(tmp_path / "m")
    folder = prune_model(str(model), plan_for(model, [0]), tmp_path / "out", max_length=128)
    prune_model(str(model), plan_for(model, [0, 1]), folder, max_length=128)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    before = digest_tree(folder)
    with pytest.raises(CheckpointError, match=rf"{name} (is not prune2vec's|was changed since prune2vec wrote it)"):
        prune_model(str(model), plan_for(model, [0]), folder, max_length=128)
    assert digest_tree(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]


def test_the_model_itself_is_not_replaced(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    folder = prune_model(str(model), plan_for(model, [0, 1]), tmp_path / "out", max_length=128)
    with pytest.raises(CheckpointError, match="it is the model that is pruned"):
        prune_model(str(folder), plan_for(folder, [0]), folder, max_length=128)


def test_tokens_without_an_embedding_are_not_in_the_written_tokeniser(tmp_path: Path) -> None:
    """Gemma 3 has a special token beyond its embeddings; with EOS appended, the tokeniser is a copy."""
    model = save_tiny(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<img>"]})
    tokenizer.save_pretrained(model)
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    assert max(tokenizer("a<img>")["input_ids"]) == rows
    out = prune_model(str(model), plan_for(model, [0, 1]), tmp_path / "out", max_length=128, pooling="lasttoken")
    written = AutoTokenizer.from_pretrained(out)
    ids = written("a<img>")["input_ids"]
    assert max(ids) < rows and ids[-1] == written.eos_token_id
    assert ids[:-1] == tiny_tokenizer()("a<img>")["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_sub_layers_of_known_families_come_apart_after_any_cut(family: str) -> None:
    model = tiny_model(family)
    kept = Kept.of(range(5), drop_mlp=[0, 2], drop_attention=[4])
    plan = plan_of(model, kept, {1: tuple(range(7)), 3: tuple(range(9, 20))})
    check_sub_layers_apart(cut_model(model, plan.kept, neurons=plan.neurons))


def test_a_wrong_record_of_sub_layers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm that serves attention, recorded as the MLP's: dropping the MLP would change what attention sees."""
    model = tiny_model("llama")
    wrong = replace(sub_layers_of(model), mlp_norms=("input_layernorm", "post_attention_layernorm"))
    monkeypatch.setitem(families._SUB_LAYERS, "llama", wrong)
    with pytest.raises(UnsupportedModel, match="without its MLP differs"):
        check_sub_layers_apart(cut_model(model, Kept.of(range(4), drop_mlp=[1])))
