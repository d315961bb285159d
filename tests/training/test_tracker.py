"""A tracker that cannot be used is refused before anything is loaded, in the words of the library."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers.integrations.integration_utils as integrations

from prune2vec.errors import ConfigError
from prune2vec.training.tracker import check_tracker
from prune2vec.training.train import train_encoder


def test_an_unknown_tracker_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tensorbord' cannot be used: tensorbord is not supported, only .*tensorboard"):
        train_encoder(tmp_path / "not there", "nothing.jsonl", tmp_path / "out", report_to="tensorbord")
    assert not list(tmp_path.iterdir())


def test_a_tracker_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrations, "is_wandb_available", lambda: False)
    with pytest.raises(ConfigError, match=r"report_to 'wandb' cannot be used: .*pip install wandb"):
        check_tracker("wandb")


@pytest.mark.parametrize("name", ["none", "all"])
def test_none_and_all_need_nothing(name: str) -> None:
    check_tracker(name)
