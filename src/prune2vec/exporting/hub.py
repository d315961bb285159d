"""A folder into a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune2vec.errors import ConfigError, reason_of
from prune2vec.progress import say
from prune2vec.public import public


@public("check_push")
def check_push(repo: str) -> None:
    """Refuse a repository that nothing can be uploaded to from here; long work calls this before it starts.

    Raises:
        ConfigError: It is no repository's name, the hub cannot be reached, or there is no token that the hub takes.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with _explained(repo):
        validate_repo_id(repo)
        if is_offline_mode():
            raise ConfigError(f"cannot upload to {repo}: HF_HUB_OFFLINE is set; unset it, or leave --push-to-hub out")
        if get_token() is None:
            raise ConfigError(
                f"cannot upload to {repo}: there is no token of the hub; log in with `hf auth login`, or set HF_TOKEN to one that may write"
            )
        HfApi().whoami()


@public("push", "folder")
def push_folder(folder: str | Path, repo: str) -> str:
    """Upload a folder as it is, and return the repository's address.

    A new repository is private. In one that is there, files of the same name are replaced and others stay.

    Args:
        folder: An encoder's folder, or an export.
        repo: ``owner/name``, or ``name`` of one's own.

    Raises:
        ConfigError: The hub does not take it; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _explained(repo, f"; {folder} is whole: upload it with `hf upload {repo} {folder}`"):
        made = api.create_repo(repo, private=True, exist_ok=True)
        say(f"uploading {folder} to {made}")
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Upload with prune2vec")
    return str(made)


@contextmanager
def _explained(repo: str, remedy: str = "") -> Iterator[None]:
    # Which library its HTTPError is of depends on the release.
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HFValidationError, HTTPError, OSError, ValueError) as error:
        raise ConfigError(f"cannot upload to {repo}: {reason_of(error)}{remedy}") from error
