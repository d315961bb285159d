"""``prune2vec doctor``: planted faults, each found by its own row, with and without the record of files."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from prune2vec.cli.app import main
from prune2vec.errors import CheckpointError, ConfigError, DataError
from prune2vec.exporting import doctor
from prune2vec.exporting.doctor import OK, TOLD, WRONG, Examined, examine_encoder
from prune2vec.exporting.export import export_encoder
from prune2vec.models.kept import Kept
from prune2vec.outputs import RECORD
from prune2vec.pruning.encoder import PROBE, load_encoder, save_encoder
from prune2vec.pruning.prune import prune_model
from tests.exporting.encoders import cut_encoder, installed_targets, plan_for, tiny_encoder
from tests.pruning.plans import plan_for as whole_plan
from tests.tiny import save_tiny

WEIGHTS = "model.safetensors"
ALL = Kept.of(range(3), drop_attention=[0], drop_mlp=[1])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that pools its EOS, with an instruction, as ``prune`` writes it."""
    scratch = tmp_path_factory.mktemp("doctor")
    model = save_tiny(scratch / "m")
    settings: dict[str, Any] = {"pooling": "lasttoken", "instruction": "find what answers", "max_length": 64}
    return prune_model(str(model), whole_plan(model, [0, 2]), scratch / "encoder", **settings)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "encoder"))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def pooling(folder: Path) -> None:
    edit(
        folder / "1_Pooling" / "config.json",
        lambda told: told.update(pooling_mode_lasttoken=False, pooling_mode_mean_tokens=True),
    )


def weight(folder: Path) -> None:
    # One row of one matrix.
    change_weights(folder, lambda tensors: tensors["layers.1.mlp.down_proj.weight"][3].mul_(-1))


def missing(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("layers.1.mlp.up_proj.weight"))


def eos(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda told: told.update(post_processor=None))


def side(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda told: told.update(padding_side="left"))


def old_rope(folder: Path) -> None:
    edit(folder / "config.json", lambda told: told.pop("rope_theta"))


def new_rope(folder: Path) -> None:
    edit(folder / "config.json", lambda told: told.pop("rope_parameters"))


def adapter(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    model.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    # Of a model with adapters these alone.
    model.save_pretrained(folder)


def prompt(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", lambda told: told["prompts"].update(query="find what answers: "))


def nan(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors["norm.weight"].fill_(float("nan")))


def direction(folder: Path) -> None:
    edit(folder / "config.json", lambda told: told.update(is_causal=False, use_bidirectional_attention=True))


FAULTS = {
    pooling: "pooling",
    weight: "vectors",
    missing: "loads",
    eos: "tokens",
    side: "sides",
    old_rope: "rotary entries",
    new_rope: "rotary entries",
    adapter: "adapters",
    prompt: "prompts",
    nan: "vectors",
    direction: "attention",
}


def verdicts(examined: Examined) -> dict[str, str]:
    return {finding.what: finding.verdict for finding in examined.findings}


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found_by_its_own_row(folder: Path, fault: Callable[[Path], None], recorded: bool) -> None:
    fault(folder)
    if not recorded:
        (folder / RECORD).unlink()
    examined = examine_encoder(folder)
    found = verdicts(examined)
    assert examined.failed and found[FAULTS[fault]] == WRONG, examined.render()
    assert f"\n{FAULTS[fault]}: found " in examined.render() and examined.render().endswith(" wrong")
    # Added files are no changed ones: what they do has a row of its own.
    assert found["files"] == (TOLD if not recorded else OK if fault is adapter else WRONG)


def test_a_sound_folder_has_nothing_wrong(folder: Path) -> None:
    # A card is the user's to edit.
    (folder / "README.md").write_text("mine")
    examined = examine_encoder(folder)
    found = verdicts(examined)
    assert not examined.failed and "nothing wrong was found" in examined.render(), examined.render()
    told = {what for what, verdict in found.items() if verdict == TOLD}
    assert told == {"padded left", "served by"} and set(found.values()) == {OK, TOLD}
    rows = {finding.what: finding for finding in examined.findings}
    assert rows["tokens"].found.endswith("</s>") and rows["attention"].found == "causal"
    assert "largest difference" in rows["vectors"].found and rows["served by"].found.startswith("sentence-transformers")


def test_an_older_folder_is_told_and_not_judged(folder: Path) -> None:
    (folder / PROBE).unlink()
    (folder / RECORD).unlink()
    examined = examine_encoder(folder)
    rows = {finding.what: finding for finding in examined.findings}
    assert not examined.failed
    for what in ("files", "pooling", "prompts", "texts", "tokens", "vectors"):
        assert (rows[what].expected, rows[what].verdict) == ("not recorded", TOLD)
    nan(folder)
    assert verdicts(examine_encoder(folder))["vectors"] == WRONG
    (folder / PROBE).write_text('{"format": "prune2vec.probe/2"}')
    with pytest.raises(DataError, match=r"probe\.json: not a record of probe texts"):
        examine_encoder(folder)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("shape", [-1, 32], r"shape is \[-1, 32\], expected two lengths"),
        ("shape", [3, 5], "cannot reshape array"),
        ("float32_base64", "abc", "padding"),
        ("tokens", None, "tokens: input should be a valid"),
    ],
)
def test_damaged_numbers_of_the_probe_are_one_line(folder: Path, entry: str, value: Any, message: str) -> None:
    record = json.loads((folder / PROBE).read_text())
    (folder / PROBE).write_text(json.dumps({**record, entry: value}))
    with pytest.raises(
        DataError, match=rf"probe\.json: broken record of probe texts \(.*{message}.*\); make it again"
    ) as caught:
        examine_encoder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["bfloat16", "uneven", "bert", "gpt2"])
def test_other_encoders_of_ours_have_nothing_wrong(tmp_path: Path, kind: str) -> None:
    family = kind if kind in ("bert", "gpt2") else "llama"
    how: dict[str, Any] = {"dtype": torch.bfloat16} if kind == "bfloat16" else {}
    layers = {"gpt2": "n_layer"}.get(family, "num_hidden_layers")
    encoder = tiny_encoder(tmp_path, family, prompts={"query": "find:\n", "document": ""}, **how, **{layers: 3})
    if kind == "uneven":
        cut_encoder(encoder, plan_for(encoder, ALL, {2: 11}))
    save_encoder(encoder, tmp_path / "encoder", record={"model": {"name": "m"}})
    shutil.copytree(tmp_path / "encoder", tmp_path / "copy")
    examined = examine_encoder(tmp_path / "encoder", against=tmp_path / "copy")
    assert not examined.failed, examined.render()
    found = verdicts(examined)
    # The look at an encoder in bf16 rounds the tables of its rotary embedding, and must not come before.
    same = next(finding.found for finding in examined.findings if finding.what == "vectors of copy")
    assert same.startswith("largest difference 0,"), same
    assert found["vectors"] == OK and ("in bfloat16" in found) == (kind == "bfloat16")


def test_against_another_encoder(folder: Path, sound: Path, tmp_path: Path) -> None:
    assert verdicts(examine_encoder(sound, against=folder))["vectors of encoder"] == OK
    weight(folder)
    prompt(folder)
    found = verdicts(examine_encoder(sound, against=folder))
    assert (found["vectors of encoder"], found["prompts of encoder"], found["vectors"]) == (WRONG, WRONG, OK)
    export_encoder(sound, target="vllm", output=tmp_path / "vllm")
    with pytest.raises(ConfigError, match="is an export to vllm, which cannot be run here"):
        examine_encoder(sound, against=tmp_path / "vllm")
    with pytest.raises(CheckpointError, match="is an export to another runtime"):
        examine_encoder(tmp_path / "vllm")


@pytest.mark.skipif("onnx" not in installed_targets(), reason="the onnx extra is not installed")
def test_against_an_onnx_export(sound: Path, folder: Path, tmp_path: Path) -> None:
    export_encoder(sound, target="onnx", output=tmp_path / "out")
    assert not examine_encoder(sound, against=tmp_path / "out").failed
    weight(folder)
    assert verdicts(examine_encoder(folder, against=tmp_path / "out"))["vectors of out"] == WRONG
    # Fewer bits are judged by their mean cosine alone, as when they were written.
    edit(tmp_path / "out" / "export.json", lambda about: about.update(precision="int8"))
    rows = {finding.what: finding for finding in examine_encoder(sound, against=tmp_path / "out").findings}
    assert (rows["vectors of out"].found, rows["vectors of out"].verdict) == ("mean cosine 1.0000, smallest 1.0000", OK)


@pytest.mark.parametrize("fault", [None, weight])
def test_against_a_server(
    sound: Path, folder: Path, fault: Callable[[Path], None] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = load_encoder(sound, device="cpu", dtype="float32")
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self.answer({"data": [{"id": "owner/model"}]} if self.path == "/v1/models" else {})

        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (self.path, told["model"]) == ("/v1/embeddings", "owner/model")
            asked.append(told["input"])
            # A server adds no prompt of its own.
            vector = encoder.encode(told["input"], prompt="", show_progress_bar=False)
            self.answer({"data": [{"embedding": vector.tolist()}]})

        def answer(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    if fault:
        fault(folder)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        main(["doctor", str(folder), "--against", f"{url}/v1/", "--json"])
        rows = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
        without = {finding.what: finding for finding in examine_encoder(sound, against=url).findings}
        server.shutdown()
        thread.join()
    # What cannot be asked does not hide what was found about the folder.
    assert without["against"].verdict == WRONG and without["vectors"].verdict == OK
    assert re.fullmatch(rf"no embeddings from {url}: .*; expected a server with OpenAI's interface", without["against"].found)
    row = rows["vectors of owner/model"]
    assert row["found"].startswith("largest cosine distance ") and row["found"].endswith(" (18 texts)")
    assert row["verdict"] == (WRONG if fault else OK)
    assert sum(text.startswith("find what answers\n") for text in asked) == 9
    # None is longer than the encoder reads.
    assert max(len(encoder.tokenizer(text)["input_ids"]) for text in asked) <= 64


@pytest.mark.skipif("gguf" not in installed_targets(), reason="the gguf extra is not installed")
def test_against_a_gguf_export(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_encoder(sound, target="gguf", output=tmp_path / "out", precision="q8_0")
    encoder = load_encoder(sound, device="cpu", dtype="float32")

    def vectors(path: Path, texts: list[str], *, tokens: int) -> Any:
        assert path == tmp_path / "out" / "model.gguf" and 64 <= tokens <= 64 + 8
        return encoder.encode(texts, prompt="", show_progress_bar=False)

    monkeypatch.setattr(doctor, "llama_cpp_vectors", vectors)
    for other in (tmp_path / "out", tmp_path / "out" / "model.gguf"):
        row = {finding.what: finding for finding in examine_encoder(sound, against=other).findings}["vectors of model.gguf"]
        assert (row.expected, row.verdict) == ("a cosine of 0.99 at least", OK), row


def test_the_verb_prints_a_table_and_its_exit_code_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["what", "found", "expected"]
    prompt(folder)
    assert main(["doctor", str(folder), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (
        told["failed"] and {"what": "attention", "found": "causal", "expected": "causal", "verdict": "ok"} in told["findings"]
    )
    assert main(["doctor", str(folder.parent)]) == 1
    assert "no modules.json" in capsys.readouterr().err


def test_what_was_written_is_what_is_loaded(sound: Path) -> None:
    """The record is of the reloaded folder, so an examination does not depend on who wrote it."""
    told = json.loads((sound / PROBE).read_text())
    encoder = load_encoder(sound, device="cpu", dtype="float32")
    assert told["settings"]["prompts"] == {"query": "find what answers\n"} and told["settings"]["pooling"] == "lasttoken"
    assert told["shape"] == [2 * len(told["texts"]), encoder.get_embedding_dimension()]


@pytest.mark.parametrize("record", ["[1]", '{"target": "onnx"}', '{"target": "onnx", "max_length": "8"}', '{"target": "gguf"}'])
def test_an_export_with_a_broken_record_is_one_line(sound: Path, tmp_path: Path, record: str) -> None:
    (tmp_path / "export.json").write_text(record)
    with pytest.raises(CheckpointError, match=r"export\.json: broken record of an export \(\w+ is missing\); make it again"):
        examine_encoder(sound, against=str(tmp_path))


def test_an_encoder_is_loaded_to_encode(sound: Path) -> None:
    encoder = load_encoder(sound, device="cpu", dtype="float32")
    assert not any(module.training for module in encoder.modules())
