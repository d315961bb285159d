"""The whole verb: training, resuming after a kill, and refusing what does not fit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from prune2vec.data.instructions import E5_DATASETS
from prune2vec.data.triplet import write_triplets
from prune2vec.errors import CheckpointError, ConfigError, DataError, TrainingError
from prune2vec.files import digest_tree
from prune2vec.resume import WorkFolder
from prune2vec.training.train import finishing_device, train_encoder
from tests.tiny import tiny_tokenizer
from tests.training.encoders import rows, save_tiny_encoder

# 4 + 3 batches of 8 an epoch: 12 steps end in the second epoch.
DATA = (*rows(32, "one"), *rows(26, "two", start=32))
QUICK: dict[str, Any] = {"steps": 12, "batch_size": 8, "learning_rate": 3e-3, "save_every": 4, "dtype": "float32"}


class StopAt(TrainerCallback):
    """Dies at a step, when its checkpoint is written but not yet marked as whole, or just after the step."""

    def __init__(self, step: int, *, in_save: bool = False) -> None:
        self._step = step
        self._in_save = in_save

    def _stop(self, step: int) -> None:
        if step == self._step:
            raise KeyboardInterrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._in_save:
            self._stop(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._in_save:
            self._stop(state.global_step)


def curve(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "train.jsonl").read_text().splitlines()]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    assert [line["step"] for line in curve(other)] == [line["step"] for line in curve(one)]
    for ours, theirs in zip(curve(one), curve(other), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
        assert {k: ours[k] for k in ("dataset", "tokens", "learning_rate")} == {
            k: theirs[k] for k in ("dataset", "tokens", "learning_rate")
        }
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "encoder"
    train_encoder(small, DATA, output, **QUICK)
    return output


def test_loss_falls_and_the_record_says_how(small: Path, whole: Path) -> None:
    losses = [line["loss"] for line in curve(whole)]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    record = json.loads((whole / "prune2vec.json").read_text())["train"]
    assert record["steps"] == 12
    assert {name: table["batches"] for name, table in record["data"].items()} == {"one": 7, "two": 5}
    assert record["merge"]["max_difference"] < 1e-5
    assert record["tokens"] == sum(line["tokens"] for line in curve(whole))
    assert all(line["peak_memory_bytes"] > 0 and line["tokens_per_s"] > 0 for line in curve(whole))
    assert not WorkFolder.beside(whole).folder.exists()
    changed = [name for name, tensor in weights(whole).items() if not torch.equal(tensor, weights(small)[name])]
    assert changed == [name for name in weights(whole) if "proj" in name]


@pytest.mark.parametrize(
    ("stop", "save_every", "resumed"),
    [(3, 4, None), (6, 4, 4), (9, 7, 7), (11, 4, 8)],
    ids=["before the first checkpoint", "in the first epoch", "at its end", "in the second"],
)
def test_resuming_equals_not_stopping(
    small: Path, whole: Path, tmp_path: Path, stop: int, save_every: int, resumed: int | None
) -> None:
    output = tmp_path / "encoder"
    settings = {**QUICK, "save_every": save_every}
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, DATA, output, callbacks=[StopAt(stop)], **settings)
    assert not output.exists()
    assert train_encoder(small, DATA, output, **settings).resumed_from == resumed
    assert_same_run(whole, output)


def test_checkpoint_without_its_mark_is_not_used(small: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, DATA, output, callbacks=[StopAt(8, in_save=True)], **QUICK)
    work = WorkFolder.beside(output)
    assert not work.checkpoint(8).exists(), "no run could go on from half of it"
    work.checkpoint(8).mkdir()
    with work.curve.open("a") as file:
        file.write('{"step": 9, "lo')
    assert train_encoder(small, DATA, output, **QUICK).resumed_from == 4
    assert_same_run(whole, output)


def test_stopped_before_saving_trains_no_further_step(small: Path, whole: Path, tmp_path: Path) -> None:
    class StopAtEnd(TrainerCallback):
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    output = tmp_path / "encoder"
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, DATA, output, callbacks=[StopAtEnd()], **QUICK)
    assert train_encoder(small, DATA, output, **QUICK).resumed_from == 12
    assert_same_run(whole, output)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_resuming_is_exact_on_a_base_stored_in_bf16(tmp_path: Path, method: str) -> None:
    base = save_tiny_encoder(tmp_path / "small", "qwen3", dtype=torch.bfloat16)
    settings = {**QUICK, "method": method, "steps": 6, "learning_rate": 1e-3}
    train_encoder(base, DATA, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(base, DATA, tmp_path / "encoder", callbacks=[StopAt(5)], **settings)
    train_encoder(base, DATA, tmp_path / "encoder", **settings)
    assert_same_run(tmp_path / "whole", tmp_path / "encoder")
    assert {tensor.dtype for tensor in weights(tmp_path / "encoder").values()} == {torch.bfloat16}


_CHILD = """
import sys
from pathlib import Path
from prune2vec.training.train import train_encoder
from tests.training.test_train import DATA, QUICK
train_encoder(Path(sys.argv[1]), DATA, Path(sys.argv[2]), **QUICK)
"""


def test_same_command_after_sigkill(small: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    curve_file = WorkFolder.beside(output).curve
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(small), str(output)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        if curve_file.exists() and curve_file.read_text().count("\n") >= 5:
            child.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    assert child.wait() == -signal.SIGKILL
    assert train_encoder(small, DATA, output, **QUICK).resumed_from is not None
    assert_same_run(whole, output)


def test_a_finished_output_is_returned_or_protected(small: Path, whole: Path) -> None:
    before = (whole / "prune2vec.json").stat().st_mtime_ns
    assert train_encoder(small, DATA, whole, **QUICK).resumed_from == 12
    assert train_encoder(small, DATA, whole, **{**QUICK, "save_every": 7}).resumed_from == 12
    with pytest.raises(TrainingError, match=r"learning_rate 0\.003, now 0\.001.*restart"):
        train_encoder(small, DATA, whole, **{**QUICK, "learning_rate": 1e-3})
    with pytest.raises(TrainingError, match="the training texts changed"):
        train_encoder(small, DATA[:-1], whole, **QUICK)
    assert (whole / "prune2vec.json").stat().st_mtime_ns == before


def test_other_settings_need_restart(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "encoder"
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, DATA, output, callbacks=[StopAt(5)], **QUICK)
    other = {**QUICK, "steps": 6}
    with pytest.raises(TrainingError, match=r"steps 12, now 6"):
        train_encoder(small, DATA, output, **other)
    result = train_encoder(small, DATA, output, **other, restart=True)
    assert (result.steps, result.resumed_from, len(curve(output))) == (6, None, 6)


def test_a_finished_run_says_that_it_had_no_dev(
    small: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    write_triplets(rows(4, start=60), tmp_path / "dev.jsonl")
    assert train_encoder(small, DATA, tmp_path / "out", **QUICK, dev=tmp_path / "dev.jsonl").dev == {}
    assert "is finished, and was trained without dev; evaluate it on" in capsys.readouterr().err


def test_a_finished_run_leaves_another_runs_checkpoints(small: Path, tmp_path: Path) -> None:
    output, first, other = tmp_path / "encoder", {**QUICK, "steps": 2}, {**QUICK, "steps": 12}
    train_encoder(small, DATA, output, **first)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, DATA, output, callbacks=[StopAt(9)], restart=True, **other)
    before = digest_tree(tmp_path / ".encoder.training")
    assert train_encoder(small, DATA, output, **first).steps == 2
    assert digest_tree(tmp_path / ".encoder.training") == before
    assert train_encoder(small, DATA, output, restart=True, **other).resumed_from is not None


def test_a_prompt_that_takes_in_the_text_is_refused_before_training(small: Path, tmp_path: Path) -> None:
    encoder = SentenceTransformer(str(small), device="cpu")
    # The blank at its end merges with the first word of a text.
    encoder.prompts = {"query": "find: ", "document": ""}
    encoder.save_pretrained(str(tmp_path / "base"), create_model_card=False)
    with pytest.raises(CheckpointError, match=r"this encoder pools no token, .*let the prompt end with a line break"):
        train_encoder(tmp_path / "base", DATA, tmp_path / "encoder", **QUICK)
    assert not (tmp_path / ".encoder.training").exists()


def test_a_default_prompt_that_was_not_trained_with_is_none_any_more(tmp_path: Path) -> None:
    base = save_tiny_encoder(tmp_path / "small")
    encoder = SentenceTransformer(str(base), device="cpu")
    encoder.prompts, encoder.default_prompt_name = {"query": "find:\n", "document": ""}, "query"
    encoder.save_pretrained(str(tmp_path / "base"), create_model_card=False)
    train_encoder(tmp_path / "base", DATA, tmp_path / "none", instruction="none", **{**QUICK, "steps": 1})
    train_encoder(tmp_path / "base", DATA, tmp_path / "saved", **{**QUICK, "steps": 1})
    found = {name: SentenceTransformer(str(tmp_path / name), device="cpu").default_prompt_name for name in ("none", "saved")}
    assert found == {"none": None, "saved": "query"}


def test_similarities_without_a_teacher_are_told(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_encoder(small, DATA, tmp_path / "encoder", distil="scores", **{**QUICK, "steps": 1})
    assert "distil scores has no teacher to learn from, so the triplets' labels alone are learnt" in capsys.readouterr().err


def test_folders_that_are_not_ours_are_left_alone(small: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"mine: it holds thesis\.txt, and no record"):
        train_encoder(small, DATA, tmp_path / "mine", **QUICK, restart=True)
    with pytest.raises(ConfigError, match="is an encoder that is read; give another folder to write"):
        train_encoder(small, DATA, small, **QUICK)
    with pytest.raises(ConfigError, match=r"trained is inside .*, and would be a change of it; name another output"):
        train_encoder(small, DATA, small / "trained", **QUICK)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_held_out_rows_are_only_watched(small: Path, tmp_path: Path) -> None:
    write_triplets(rows(9, "dev", start=60), tmp_path / "dev.jsonl")
    for name, more in (("alone", {}), ("watched", {"dev": tmp_path / "dev.jsonl"}), ("often", {"dev": tmp_path / "dev.jsonl"})):
        often = {"save_every": 3} if name == "often" else {}
        train_encoder(small, DATA, tmp_path / name, **{**QUICK, "lora_dropout": 0.3, **more, **often})
    for name in ("watched", "often"):
        assert (tmp_path / name / "dev.jsonl").read_text()
        assert [line["loss"] for line in curve(tmp_path / name)] == [line["loss"] for line in curve(tmp_path / "alone")]
        assert all(torch.equal(one, weights(tmp_path / "alone")[key]) for key, one in weights(tmp_path / name).items())


def test_nan_weights_stop_at_once_and_save_nothing(tmp_path: Path) -> None:
    base = save_tiny_encoder(tmp_path / "small")
    broken = load_file(base / "model.safetensors")
    broken["norm.weight"][0] = float("nan")
    from safetensors.torch import save_file

    save_file(broken, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="are not finite, first that of"):
        train_encoder(base, DATA, tmp_path / "encoder", **QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {"small", "small-plain"}


def test_what_the_user_added_to_a_trained_encoder_is_kept(small: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "encoder")
    (tmp_path / "encoder" / "README.md").write_text("mine")
    assert train_encoder(small, DATA, tmp_path / "encoder", **QUICK).resumed_from == 12, "nothing is written"
    with pytest.raises(CheckpointError, match=r"README\.md was changed since prune2vec wrote it"):
        train_encoder(small, DATA, tmp_path / "encoder", **{**QUICK, "steps": 2}, restart=True)
    assert (tmp_path / "encoder" / "README.md").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_an_interrupted_run_says_where_it_goes_on(small: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped:
        train_encoder(small, DATA, tmp_path / "encoder", callbacks=[StopAt(2)], **QUICK)
    assert not hasattr(stopped.value, "__notes__") and not list(tmp_path.iterdir()), "no checkpoint, nothing to go on from"
    with pytest.raises(KeyboardInterrupt) as stopped:
        train_encoder(small, DATA, tmp_path / "encoder", callbacks=[StopAt(5)], **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == [".encoder.training"]
    (note,) = stopped.value.__notes__
    assert note == f"{tmp_path / '.encoder.training'} is kept, from which the same command goes on after step 4"


def test_bad_input_is_one_line(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set has the 64 rows of one batch \(one has 20\)"):
        train_encoder(small, rows(20), tmp_path / "encoder")
    with pytest.raises(ConfigError, match="unknown key 'learning_rat'; did you mean 'learning_rate'"):
        train_encoder(small, DATA, tmp_path / "encoder", learning_rat=1)
    with pytest.raises(DataError, match="no source of texts"):
        train_encoder(small, [], tmp_path / "encoder")
    write_triplets(rows(20), tmp_path / "rows.jsonl")
    with pytest.raises(ConfigError, match=r"rows\.jsonl is held out, and .*rows\.jsonl is trained on"):
        train_encoder(small, tmp_path / "rows.jsonl", tmp_path / "encoder", dev=tmp_path / "rows.jsonl", **QUICK)
    same = rows(1) * 16
    with pytest.raises(DataError, match=r"one: 16 rows give 0 batches of 8 in which no text comes twice, expected 2"):
        train_encoder(small, same, tmp_path / "encoder", **QUICK)


@pytest.mark.parametrize(
    "settings", [{"target_modules": ("q_porj", "v_proj")}, {"train_top": 3}, {"method": "full", "train_top": 3}]
)
def test_what_does_not_fit_the_model_is_refused_before_the_work_folder(
    small: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"q_porj|train_top"):
        train_encoder(small, DATA, tmp_path / "encoder", **QUICK, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", ["max_length", "the encoder's own"])
def test_an_instruction_that_leaves_no_room_for_texts_is_refused_before_training(
    small: Path, tmp_path: Path, limit: str
) -> None:
    output = tmp_path / "out"
    # The tiny tokeniser puts one token before a text; the line break after an instruction is one more.
    words, length = (30, 32) if limit == "max_length" else (62, 512)
    told = {**QUICK, "steps": 1, "instruction": " ".join(["fox"] * words), "max_length": length}
    with pytest.raises(ConfigError, match=rf"^one: the instruction has {words + 2} tokens of max_length {words + 2}, .*raise"):
        train_encoder(small, DATA, output, **told)
    assert not output.exists() and not WorkFolder.beside(output).folder.exists()
    train_encoder(small, DATA, output, **{**told, "instruction": " ".join(["fox"] * (words - 1))})


def test_held_out_rows_need_room_as_well(small: Path, tmp_path: Path) -> None:
    write_triplets([replace(row, dataset="") for row in rows(4)], tmp_path / "quora_duplicates.jsonl")
    told = {**QUICK, "steps": 1, "instruction": "e5", "dev": tmp_path / "quora_duplicates.jsonl"}
    counts = [len(tiny_tokenizer()(f"{E5_DATASETS[name].even}\n").input_ids) for name in ("squad", "quora_duplicates")]
    assert counts[0] + 1 < counts[1]
    with pytest.raises(
        ConfigError, match=rf"^quora_duplicates: the instruction has \d+ tokens of max_length {counts[0] + 1}, "
    ):
        train_encoder(small, rows(16, "squad"), tmp_path / "out", **told, max_length=counts[0] + 1)


def test_nothing_is_printed_to_stdout(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_encoder(small, DATA, tmp_path / "encoder", **{**QUICK, "steps": 2})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Writing" not in captured.err
    assert "example" not in captured.err


def test_scores_of_the_rows_are_learnt_and_a_run_goes_on_exactly(small: Path, tmp_path: Path) -> None:
    data = [replace(row, scores=(3.0, 2.0, 1.0, 0.0)) for row in rows(48, negatives=3)]
    settings: dict[str, Any] = {**QUICK, "steps": 8, "hard_negatives": 2, "negative_sampling": "sampled", "distil": "data"}
    train_encoder(small, data, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, data, tmp_path / "resumed", callbacks=[StopAt(5)], **settings)
    result = train_encoder(small, data, tmp_path / "resumed", **settings)
    assert result.resumed_from == 4
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    assert all(
        line["loss"] == pytest.approx(line["contrastive"] + line["distillation"], abs=2e-3)
        for line in curve(tmp_path / "whole")
    )
    assert curve(tmp_path / "whole")[-1]["distillation"] < curve(tmp_path / "whole")[0]["distillation"]


def test_rows_without_scores_are_refused_before_training(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1 of one has 0 teacher scores for 2 documents"):
        train_encoder(small, DATA, tmp_path / "encoder", **QUICK, distil="data")
    assert not (tmp_path / "encoder").exists()


def test_what_a_gpu_has_no_room_for_is_finished_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "0_Transformer" / "model.safetensors").write_bytes(bytes(1000))
    for free, place in ((2000, "cpu"), (2001, "cuda:1")):
        monkeypatch.setattr("prune2vec.training.train.free_memory_bytes", lambda device, free=free: free)
        assert finishing_device(SimpleNamespace(base=tmp_path, device=torch.device("cuda", 1))) == place  # type: ignore[arg-type]
        assert finishing_device(SimpleNamespace(base=tmp_path, device=torch.device("cpu"))) == "cpu"  # type: ignore[arg-type]
