"""A loader that fills no holes: encoders whose files do not fit each other are refused in one line that names the place."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prune2vec.errors import CheckpointError, ModelError, Prune2vecError
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.plain_encoder import load_to_encode
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny
from tests.training.encoders import save_tiny_encoder

TEXTS = ["quick brown fox", "the lazy dog " * 30, "12  34"]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that sentence-transformers wrote."""
    folder = save_tiny_encoder(tmp_path_factory.mktemp("foreign") / "encoder", layers=3)
    (folder / "prune2vec.json").unlink()
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that prune wrote."""
    work = tmp_path_factory.mktemp("ours")
    model = save_tiny(work / "m")
    return prune_model(str(model), plan_for(model, [0, 2]), work / "encoder", max_length=64, instruction="find it")


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(folder: Path, name: str, **changes: Any) -> None:
    file = folder / name
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


UP = "layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("origin", ["ours", "foreign"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(UP), f"lacks tensor {UP} \\(1 in all\\)"),
        (lambda tensors: tensors.update({UP: torch.ones(7, 32)}), f"tensor {UP} is \\[7, 32\\] in the weights, but \\["),
        (
            lambda tensors: tensors.update({"layers.1.mlp.more.weight": torch.ones(3)}),
            r"has tensor layers\.1\.mlp\.more\.weight",
        ),
        (lambda tensors: tensors.update({UP + "s": tensors.pop(UP)}), f"lacks tensor {UP}"),
        (lambda tensors: tensors.pop("norm.weight"), r"lacks tensor norm\.weight"),
        (lambda tensors: tensors.pop("embed_tokens.weight"), r"lacks tensor embed_tokens\.weight"),
        (lambda tensors: tensors.update({UP: torch.empty(0)}), f"tensor {UP} is empty"),
        (
            lambda tensors: tensors.update({"layers.9.mlp.up_proj.weight": torch.ones(48, 32)}),
            r"has tensor layers\.9\..*they hold 10",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    tmp_path: Path, request: pytest.FixtureRequest, origin: str, change: Callable[[Any], Any], message: str
) -> None:
    folder = shutil.copytree(request.getfixturevalue(origin), tmp_path / "encoder")
    edit_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_head_above_the_last_block_does_no_harm(tmp_path: Path, foreign: Path) -> None:
    folder = shutil.copytree(foreign, tmp_path / "encoder")
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(384, 32)}))
    np.testing.assert_array_equal(vectors(folder), vectors(foreign))


@pytest.mark.parametrize(("layers", "held"), [(2, 3), (4, 3), (10**9, 3)])
def test_layers_of_config_and_file_are_told(tmp_path: Path, foreign: Path, layers: int, held: int) -> None:
    folder = shutil.copytree(foreign, tmp_path / "encoder")
    edit_json(folder, "config.json", num_hidden_layers=layers)
    with pytest.raises(CheckpointError, match=rf"(says|tells of) {layers} layers.* hold {held}"):
        load_encoder(folder, device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"model\.safetensors is empty; fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", r"model\.safetensors is a Git LFS pointer"),
        (None, r"model\.safetensors is damaged.*not fully covered"),
    ],
)
def test_damaged_weights_name_the_file(tmp_path: Path, foreign: Path, content: bytes | None, message: str) -> None:
    folder = shutil.copytree(foreign, tmp_path / "encoder")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50] if content is None else content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sentence_bert_config.json", {"max_seq_length": "64"}, r"sentence_bert_config\.json: max_seq_length: .*got '64'"),
        ("sentence_bert_config.json", {"max_seq_length": 100_000}, "max_seq_length is 100000, and the model has 256 positions"),
        ("1_Pooling/config.json", {"include_prompt": "no"}, r"1_Pooling/config\.json: include_prompt: .*got 'no'"),
        ("1_Pooling/config.json", {"pooling_mode": None}, r"1_Pooling/config\.json names no pooling"),
        ("1_Pooling/config.json", {"embedding_dimension": 48}, "its pooling is for states of 48 dimensions"),
        ("config_sentence_transformers.json", {"prompts": {"query": 3}}, r"prompts\.query: .*got 3"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "near"}, "similarity_fn_name: .*got 'near'"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "model_max_length: .*got 'long'"),
        ("config.json", {"hidden_size": "wide"}, r"config\.json: .*hidden_size"),
        ("config.json", {"vocab_size": 10**12}, r"tensor embed_tokens\.weight is \[384, 32\] in the weights"),
    ],
)
def test_a_value_that_is_wrong_names_file_and_key(
    tmp_path: Path, foreign: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(foreign, tmp_path / "encoder")
    edit_json(folder, name, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("order", "named"), [([1, 2], "Pooling, Normalize"), ([0], "Transformer"), ([0, 2], "Transformer, Normalize"), ([], "none"),
    ([0, 2, 1], "Transformer, Normalize, Pooling"), ([1, 0, 2], "Pooling, Transformer, Normalize"), ([2], "Normalize")],
)  # fmt: skip
def test_modules_that_cannot_follow_each_other_are_told(tmp_path: Path, ours: Path, order: list[int], named: str) -> None:
    folder = shutil.copytree(ours, tmp_path / "encoder")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[place] for place in order]))
    with pytest.raises(CheckpointError, match=rf"modules\.json: its modules are {named}; expected Transformer, then Pooling"):
        load_encoder(folder, device="cpu")


@pytest.mark.parametrize("path", ["é" * 300, "a\0b", "d/" * 3000])
def test_a_module_whose_folder_no_file_system_takes(tmp_path: Path, ours: Path, path: str) -> None:
    folder = shutil.copytree(ours, tmp_path / "encoder")
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=r"^[^\n]+modules\.json: path: [^\n]+; fetch it again$"):
        load_encoder(folder, device="cpu")


def test_two_tokens_with_one_number(tmp_path: Path, ours: Path) -> None:
    folder = shutil.copytree(ours, tmp_path / "encoder")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"][max(content["model"]["vocab"])] = 1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="have one number"):
        load_encoder(folder, device="cpu")


@pytest.mark.parametrize("load", [load_encoder, load_to_encode])
def test_a_folder_without_a_tokeniser_is_told_so(tmp_path: Path, ours: Path, load: Callable[..., object]) -> None:
    folder = shutil.copytree(ours, tmp_path / "encoder")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"^cannot load the encoder [^\n]+, which has no tokenizer\.json: [^\n]+$"):
        load(str(folder), device="cpu")


def test_a_message_names_the_file_in_its_subfolder(tmp_path: Path, foreign: Path) -> None:
    folder = shutil.copytree(foreign, tmp_path / "encoder")
    inner = folder / "0_Transformer"
    inner.mkdir()
    modules = json.loads((folder / "modules.json").read_text())
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    (folder / "modules.json").write_text(json.dumps([{**modules[0], "path": "0_Transformer"}, *modules[1:]]))
    assert vectors(folder).shape == vectors(foreign).shape
    edit_json(inner, "sentence_bert_config.json", max_seq_length=100_000)
    with pytest.raises(CheckpointError, match=r"encoder/0_Transformer/sentence_bert_config\.json: max_seq_length is 100000"):
        load_encoder(folder, device="cpu")
    edit_json(inner, "config.json", num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match=r"encoder/0_Transformer: config\.json tells of 1000000000 layers"):
        load_encoder(folder, device="cpu")


@pytest.mark.parametrize("routes", [{"types": ["a"]}, {"types": {"query": 3}}, ["types"]])
def test_a_router_whose_types_are_no_mapping_is_one_line(tmp_path: Path, foreign: Path, routes: Any) -> None:
    folder = shutil.copytree(foreign, tmp_path / "encoder")
    (folder / "router_config.json").write_text(json.dumps(routes))
    with pytest.raises(CheckpointError, match=r"router_config\.json: [^\n]+$"):
        load_encoder(folder, device="cpu")


def test_what_was_changed_of_ours_is_said(tmp_path: Path, ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors(ours)
    assert "changed since" not in capsys.readouterr().err
    folder = shutil.copytree(ours, tmp_path / "encoder")
    edit_json(folder, "config.json", rms_norm_eps=0.5)
    assert abs(vectors(folder) - vectors(ours)).max() > 1e-3
    assert "config.json changed since prune2vec wrote" in capsys.readouterr().err


def vectors(folder: Path) -> Any:
    return load_encoder(folder, device="cpu", dtype="float32").encode(TEXTS)


# Mutations: (what is done, doing it).
Mutation = tuple[str, Callable[[Path], Any]]
_JSON = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "prune2vec.json",
)
_VALUES: tuple[Any, ...] = ("x", -1, 10**12, 1e300, None, [], {}, True, [1, "a"])


def places(value: Any, depth: int = 2) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to the values in a JSON file, to those of large tables not."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:30]:
        yield (key,)
        if depth:
            yield from ((key, *more) for more in places(inner, depth - 1))


def mutated(file: Path, place: tuple[Any, ...], value: Any, *, delete: bool) -> None:
    content = json.loads(file.read_text())
    owner = content
    for key in place[:-1]:
        owner = owner[key]
    if delete:
        del owner[place[-1]]
    else:
        owner[place[-1]] = value
    file.write_text(json.dumps(content))


def mutations(folder: Path) -> list[Mutation]:
    found: list[Mutation] = []
    for name in _JSON:
        for place in places(json.loads((folder / name).read_text())):
            for value in (*_VALUES, "delete"):
                found.append(
                    (
                        f"{name} {place} {value!r}",
                        lambda at, name=name, place=place, value=value: mutated(
                            at / name, place, value, delete=value == "delete"
                        ),
                    )
                )
    for name in load_file(folder / "model.safetensors"):
        found += [
            (f"pop {name}", lambda at, name=name: edit_tensors(at, lambda tensors: tensors.pop(name))),
            (f"rename {name}", lambda at, name=name: edit_tensors(at, lambda t: t.update({f"{name}.old": t.pop(name)}))),
            (f"reshape {name}", lambda at, name=name: edit_tensors(at, lambda t: t.update({name: t[name][1:].clone()}))),
            (f"add to {name}", lambda at, name=name: edit_tensors(at, lambda t: t.update({f"{name}_2": torch.ones(2)}))),
        ]
    size = (folder / "model.safetensors").stat().st_size
    for share in range(8):
        found.append(
            (
                f"cut at {share}/8",
                lambda at, share=share: (at / "model.safetensors").write_bytes(
                    (at / "model.safetensors").read_bytes()[: size * share // 8]
                ),
            )
        )
    return found


@pytest.mark.parametrize("tries", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_mutated_folder_gives_its_vectors_or_says_so(
    tmp_path: Path, ours: Path, tries: int, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, wrong = vectors(ours), []
    every = mutations(ours)
    refused = 0
    for what, mutate in random.Random(10).sample(every, min(tries, len(every))):
        folder = shutil.copytree(ours, tmp_path / "encoder")
        mutate(folder)
        try:
            found = vectors(folder)
        except Prune2vecError as error:
            refused += 1
            if "\n" in str(error) or not str(error):
                wrong.append(f"{what}: {error}")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
        else:
            if not np.array_equal(found, expected) and "changed since" not in capsys.readouterr().err:
                wrong.append(f"{what}: vectors differ by {abs(found - expected).max():.1e}")
        capsys.readouterr()
        shutil.rmtree(folder)
    print(f"{refused} of {tries} refused")
    assert not wrong, "\n".join(wrong)
    assert refused > tries // 2
