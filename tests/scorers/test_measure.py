import json
from pathlib import Path

import pytest

from prune2vec.errors import ConfigError, DataError, Prune2vecError
from prune2vec.records.profile import Profile
from prune2vec.scorers import profile_model
from prune2vec.texts import Triplet
from tests.tiny import save_tiny

WORDS = ("quick", "brown", "fox", "jumps", "over", "lazy", "dog", "birds", "sing", "light")


def triplets(count: int = 12) -> list[Triplet]:
    def text(seed: int) -> str:
        return " ".join(WORDS[(seed * k + k) % len(WORDS)] for k in range(1, 4 + seed % 9))

    return [Triplet(anchor=text(n), positive=text(n + 100), negatives=(text(n + 50),)) for n in range(count)]


def test_profile_is_written_and_read_back(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "m"))
    out = tmp_path / "profile.json"
    profile = profile_model(model, triplets(), groups=2, group_size=4, dtype="float32", device="cpu", output=out)
    assert Profile.load(out) == profile
    written = json.loads(out.read_text())
    assert len(written["layer_loss"]["loss"]) == 5
    assert written["settings"]["seed"] == 42
    assert written["texts"]["used"] == 8


def test_same_command_same_profile(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "m"))
    first, second = (profile_model(model, triplets(), groups=2, group_size=4, dtype="float32", device="cpu") for _ in range(2))
    assert first.digest == second.digest


def test_instruction_changes_the_profile(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "m"))
    plain = profile_model(model, triplets(), groups=2, group_size=4, dtype="float32", device="cpu")
    told = profile_model(model, triplets(), groups=2, group_size=4, dtype="float32", device="cpu", instruction="find")
    assert plain.layer_loss != told.layer_loss


def test_long_texts_are_cut_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(save_tiny(tmp_path / "m"))
    rows = [*triplets(7), Triplet(anchor="quick " * 300, positive="fox", negatives=("dog",))]
    profile = profile_model(model, rows, groups=1, group_size=8, max_length=32, dtype="float32", device="cpu")
    assert profile.texts["truncated"] == 1
    assert "1 of 24 texts are longer than 32 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"groups": 20}, DataError, "12 tuples, but 20 groups of 4 need 80"),
        ({"pooling": "maen"}, ConfigError, "did you mean 'mean'"),
        ({"groop_size": 3}, ConfigError, "did you mean 'group_size'"),
        ({"dtype": "bf16"}, ConfigError, "no number format"),
        ({"scale": -1}, ConfigError, "scale"),
        ({"wrapper": "chat"}, Prune2vecError, "no chat template"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, settings: dict[str, object], error: type[Exception], message: str) -> None:
    model = str(save_tiny(tmp_path / "m"))
    with pytest.raises(error, match=message) as caught:
        profile_model(model, triplets(), **{"groups": 2, "group_size": 4, "device": "cpu", **settings})
    assert "\n" not in str(caught.value)
