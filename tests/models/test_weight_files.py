import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prune2vec.errors import CheckpointError
from prune2vec.models.source import resolve_source
from prune2vec.models.weight_files import WeightFiles, fingerprint, header
from tests.models.test_source import fake_hub
from tests.tiny import save_tiny


def test_reads_tensors_from_one_file_and_from_shards(tmp_path: Path) -> None:
    whole = resolve_source(str(save_tiny(tmp_path / "whole")))
    shards = resolve_source(str(save_tiny(tmp_path / "shards", max_shard_size="40KB")))
    one, many = WeightFiles.find(whole), WeightFiles.find(shards)
    assert len(set(one.file_of.values())) == 1
    assert len(set(many.file_of.values())) > 3
    assert set(one.file_of) == set(many.file_of)
    first, second = dict(one.read(one.file_of)), dict(many.read(many.file_of))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.bytes_read == many.bytes_read == sum(tensor.nbytes for tensor in first.values())


def test_only_the_files_that_are_needed_are_opened(tmp_path: Path) -> None:
    source = resolve_source(str(save_tiny(tmp_path / "m", max_shard_size="40KB")))
    files = WeightFiles.find(source)
    name = "model.norm.weight"
    list(files.read([name]))
    assert files.opened == [files.file_of[name]]
    assert files.bytes_read == 32 * 4


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", max_shard_size="40KB")
    files = WeightFiles.find(resolve_source(str(folder)))
    victim = files.file_of["model.norm.weight"]
    (folder / victim).unlink()
    with pytest.raises(CheckpointError, match=victim):
        list(files.read(["model.norm.weight"]))


@pytest.mark.parametrize("name", ["é" * 300, "[" * 5000, "a\0b", "d/" * 3000])
def test_a_shard_whose_name_no_file_can_have_is_missing(tmp_path: Path, name: str) -> None:
    folder = save_tiny(tmp_path / "m", max_shard_size="40KB")
    index = folder / "model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**weights, "model.norm.weight": name}}))
    with pytest.raises(CheckpointError, match="is missing, though the index names it"):
        list(WeightFiles.find(resolve_source(str(folder))).read(["model.norm.weight"]))


def test_truncated_file_is_damaged(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        WeightFiles.find(resolve_source(str(folder)))


def test_the_single_file_is_read_where_an_old_index_lies_beside_it(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", seed=1, max_shard_size="40KB")
    (save_tiny(tmp_path / "new", seed=2) / "model.safetensors").rename(folder / "model.safetensors")
    files = WeightFiles.find(resolve_source(str(folder)))
    expected = load_file(folder / "model.safetensors")
    assert set(files.file_of.values()) == {"model.safetensors"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in files.read(files.file_of))


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", {"a": 1}, {"a": ""}])
def test_an_index_of_another_form(tmp_path: Path, weight_map: object) -> None:
    folder = save_tiny(tmp_path / "m", max_shard_size="40KB")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(
        CheckpointError, match=r"^[^\n]*weight_map of model\.safetensors\.index\.json is broken; expected [^\n]+$"
    ):
        WeightFiles.find(resolve_source(str(folder)))


@pytest.mark.parametrize(("change", "what"), [("drop", "holds also"), ("move", "does not hold")])
def test_an_index_against_its_files(tmp_path: Path, change: str, what: str) -> None:
    folder = save_tiny(tmp_path / "m", max_shard_size="40KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    file = index["weight_map"].pop("model.norm.weight")
    if change == "move":
        index["weight_map"]["model.norm.weight"] = next(other for other in index["weight_map"].values() if other != file)
    path.write_text(json.dumps(index))
    files = WeightFiles.find(resolve_source(str(folder)))
    with pytest.raises(CheckpointError, match=rf"{what} model\.norm\.weight, against model\.safetensors\.index"):
        files.table([name for name in files.file_of if change == "drop" or name == "model.norm.weight"])


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_header_of_another_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="header"):
        header(path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        WeightFiles.find(resolve_source(str(folder)))


def test_fingerprint_tells_weights_apart_and_stays_the_same(tmp_path: Path) -> None:
    names = [str(save_tiny(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    a, b, c = (fingerprint(resolve_source(name)) for name in names)
    assert a == b != c


def test_fingerprint_sees_a_changed_config(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    before = fingerprint(resolve_source(str(folder)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert fingerprint(resolve_source(str(folder))) != before


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_stored_width(tmp_path: Path, dtype: torch.dtype, width: int) -> None:
    folder = save_tiny(tmp_path / "m")
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert WeightFiles.find(resolve_source(str(folder))).stored_bytes_per_param() == width


@pytest.mark.parametrize("mask", ["model.layers.0.attention.bias", "model.layers.0.attn.masked_bias"])
def test_masks_do_not_count_for_the_stored_width(tmp_path: Path, mask: str) -> None:
    folder = save_tiny(tmp_path / "m")
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors[mask] = torch.ones(1, 1, 512, 512, dtype=torch.bool)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert WeightFiles.find(resolve_source(str(folder))).stored_bytes_per_param() == 2


def test_a_sharded_model_in_the_cache_is_found_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny(tmp_path / "m", max_shard_size="40KB")
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    shard = sorted(name for name in whole if name.endswith(".safetensors"))[-1]
    fake_hub(tmp_path / "hub", "owner/whole", "0" * 40, whole)
    fake_hub(tmp_path / "hub", "owner/half", "0" * 40, {name: data for name, data in whole.items() if name != shard})
    fake_hub(tmp_path / "hub", "owner/none", "0" * 40, {"config.json": whole["config.json"]})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert WeightFiles.find(resolve_source("owner/whole")).file_of == WeightFiles.find(resolve_source(str(folder))).file_of
    half = WeightFiles.find(resolve_source("owner/half"))
    with pytest.raises(CheckpointError, match=rf"{shard} is not in the local cache and the hub cannot be reached"):
        half.table(half.file_of)
    with pytest.raises(CheckpointError, match="in the local cache, and the hub cannot be reached"):
        WeightFiles.find(resolve_source("owner/none"))
