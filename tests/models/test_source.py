import re
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, TaskType
from sentence_transformers import SentenceTransformer

from prune2vec.errors import ConfigError, ModelError
from prune2vec.models.source import resolve_source
from tests.tiny import save_tiny
from tests.tiny_encoders import TINY_ENCODERS


def fake_hub(cache: Path, repo: str, commit: str, files: dict[str, bytes]) -> None:
    """Lay out a hub cache as huggingface_hub does after a download."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for name, content in files.items():
        path = root / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_folder(tmp_path: Path) -> None:
    save_tiny(tmp_path / "m")
    source = resolve_source(str(tmp_path / "m"))
    assert source.folder == (tmp_path / "m").resolve()
    assert source.revision is None
    assert source.fetch("config.json").is_file()
    with pytest.raises(FileNotFoundError):
        source.fetch("nothing.json")


def test_typo_in_a_path_names_the_close_match(tmp_path: Path) -> None:
    save_tiny(tmp_path / "my-model")
    with pytest.raises(ModelError, match=r"did you mean .*my-model"):
        resolve_source(str(tmp_path / "my-modle"))


@pytest.mark.parametrize("name", ["./nowhere/model", "a/b/c", "model.gguf", "what is this?"])
def test_missing_path_is_one_line(name: str) -> None:
    with pytest.raises(ModelError, match="no model at") as caught:
        resolve_source(name)
    assert "\n" not in str(caught.value)


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json and no GGUF"):
        resolve_source(str(tmp_path))


def test_folder_with_several_ggufs(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="2 GGUF files: name one"):
        resolve_source(str(tmp_path))


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"expected a \.gguf file"):
        resolve_source(str(tmp_path / "model.bin"))


def test_hub_id_is_pinned_to_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    fake_hub(tmp_path, "owner/name", commit, {"config.json": b"{}"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = resolve_source("owner/name")
    assert source.revision == commit
    assert source.folder is None
    assert source.fetch("config.json").read_bytes() == b"{}"


def test_hub_id_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="hub cannot be reached"):
        resolve_source("owner/name")


@pytest.mark.parametrize("beside_weights", [False, True])
def test_an_adapter_is_refused_with_how_to_merge_it(tmp_path: Path, beside_weights: bool) -> None:
    folder = save_tiny(tmp_path / "m") if beside_weights else tmp_path
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ModelError, match=r"holds an adapter \(adapter_config\.json\); merge it [^\n]*merge_and_unload\(\)[^\n]*$"
    ):
        resolve_source(str(folder))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_command_merges_an_encoder_with_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SentenceTransformer(str(TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m")), device="cpu")
    encoder.add_adapter(LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, target_modules="all-linear", init_lora_weights=False))
    encoder.save_pretrained(str(tmp_path / "adapted"), create_model_card=False)
    with pytest.raises(ModelError, match="its other files beside it") as caught:
        resolve_source(str(tmp_path / "adapted"))
    told = re.search(r'python -c "(.*)"', str(caught.value))
    assert told is not None
    monkeypatch.chdir(tmp_path)
    exec(told[1], {})
    for file in (tmp_path / "adapted").rglob("*"):
        if file.is_file() and not file.name.startswith("adapter_"):
            target = tmp_path / "merged" / file.relative_to(tmp_path / "adapted")
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(target.read_bytes() if target.exists() else file.read_bytes())
    resolve_source(str(tmp_path / "merged"))
    merged = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    np.testing.assert_allclose(merged.encode(["a fox"]), encoder.encode(["a fox"]), atol=1e-5)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (
            ["README.md", "m.Q4_K_M.gguf", "m.Q8_0.gguf"],
            r"GGUF files \(m.Q4_K_M.gguf, m.Q8_0.gguf\); fetch one \(hf download o/n m",
        ),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter without its base; merge the two"),
        (["README.md"], r"it holds README\.md; expected config\.json"),
        (None, "its base model if it is an adapter, or the path of a downloaded file"),
    ],
)
def test_hub_repository_without_config(monkeypatch: pytest.MonkeyPatch, files: list[str] | None, match: str) -> None:
    def missing(repo: str, file: str, revision: str | None) -> None:
        raise FileNotFoundError(f"{repo}/{file}")

    def listed(*_: object, **__: object) -> list[str]:
        if files is None:
            raise ConnectionError("offline")
        return files

    monkeypatch.setattr("prune2vec.models.source._download", missing)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", listed)
    with pytest.raises(ModelError, match=rf"o/n has no config\.json .*{match}") as caught:
        resolve_source("o/n")
    assert "\n" not in str(caught.value)


def test_a_hub_id_with_an_adapter_beside_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(tmp_path, "owner/name", "0" * 40, {"config.json": b"{}", "adapter_config.json": b"{}"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="owner/name holds an adapter"):
        resolve_source("owner/name")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", ""])
def test_what_no_file_system_takes_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]*path[^\n]*$"):
        resolve_source(name)


def test_a_damaged_adapter_record_is_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, file: str, revision: str | None) -> Path:
        if file == "adapter_config.json":
            raise ModelError(f"cannot fetch {file} of {repo}: broken")
        return tmp_path / file

    monkeypatch.setattr("prune2vec.models.source._download", download)
    with pytest.raises(ModelError, match="cannot fetch adapter_config"):
        resolve_source("owner/name")
