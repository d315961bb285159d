import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, DataError, ProfileError, Prune2vecError, UnsupportedModel
from prune2vec.models.block_files import BlockFiles
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import measured, profile_model
from prune2vec.profiling.profile import Profile
from prune2vec.profiling.profile_settings import ProfileSettings
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

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
        ({"order": "file"}, ConfigError, "unknown key 'order'; it is called 'sampling' now"),
        ({"dtype": "bf16"}, ConfigError, "did you mean"),
        ({"scale": -1}, ConfigError, "scale"),
        ({"memory": "lots"}, ConfigError, "memory: expected a number such as 90M, 1.5B or 4GB, got 'lots'"),
        ({"max_depth": 3, "scorers": "redundancy"}, ConfigError, "max_depth is 3, but redundancy must see all layers"),
        ({"wrapper": "chat"}, Prune2vecError, "no chat template"),
        ({"scorers": "redundency"}, ConfigError, "no scorer is called 'redundency'; did you mean 'redundancy'"),
        ({"scorers": ["redundancy-plain"]}, ConfigError, "reads plain text, and none is given; set plain"),
        ({"scorers": "redundancy-iterative", "rounds": 5}, ConfigError, "one of 5 layers must stay"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, settings: dict[str, object], error: type[Exception], message: str) -> None:
    model = str(save_tiny(tmp_path / "m"))
    with pytest.raises(error, match=message) as caught:
        profile_model(model, triplets(), **{"groups": 2, "group_size": 4, "device": "cpu", **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", [{"x": np.arange(5.0)}, {"x": np.float32(1)}, {"x": float("nan")}, "no generator"])
def test_a_scorer_of_ones_own_is_named_where_its_section_is_none(monkeypatch: pytest.MonkeyPatch, section: Any) -> None:
    def odd(*_: object) -> Iterator[list[Any]]:
        yield []
        return section

    monkeypatch.setattr("prune2vec.profiling.measure.scorers", {"odd": (lambda *_: {}) if section == "no generator" else odd})
    said = "is no generator" if section == "no generator" else "its section is no JSON: "
    backbone: Any = None
    with pytest.raises(ProfileError, match=f"^scorer 'odd':? {said}"):
        measured(["odd"], backbone, [], ProfileSettings())


def test_other_scorers_fill_sections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(save_tiny(tmp_path / "m")), tmp_path / "profile.json"
    (tmp_path / "plain.txt").write_text(" ".join(WORDS) * 20)
    settings = {"groups": 2, "group_size": 4, "dtype": "float32", "device": "cpu"}
    alone = profile_model(model, triplets(), **settings)
    assert alone.sections == {}
    asked = profile_model(model, triplets(), **settings, scorers="redundancy, redundancy-iterative", output=out)
    assert set(asked.sections) == {"redundancy", "redundancy-iterative"}
    assert asked.layer_loss == alone.layer_loss
    assert Profile.load(out) == asked
    assert Profile.load(out).digest == asked.digest
    every = profile_model(model, triplets(), **settings, scorers=["all"])
    assert set(every.sections) == {*asked.sections, "magnitude", "angular-distance", "ablation", "linear-fit"}
    assert every.sections["redundancy"] == asked.sections["redundancy"]
    plain = profile_model(
        model, triplets(), **settings, scorers=["all"], plain=tmp_path / "plain.txt", windows=3, window_length=16
    )
    assert set(plain.sections) == {*every.sections, "redundancy-plain"}
    assert plain.sections["redundancy-plain"]["tokens"] == 48


def test_what_the_model_is_not_fit_for_is_left_out_only_with_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model("opt", causal_lm=True, do_layer_norm_before=False).save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    settings = {"groups": 2, "group_size": 4, "dtype": "float32", "device": "cpu"}
    profile = profile_model(str(tmp_path / "m"), triplets(), **settings, scorers=["all"])
    assert set(profile.sections) == {"magnitude", "angular-distance", "ablation", "linear-fit"}
    assert "redundancy is left out: opt with do_layer_norm_before=False" in capsys.readouterr().err
    with pytest.raises(UnsupportedModel, match="no sub-layer can be taken out"):
        profile_model(str(tmp_path / "m"), triplets(), **settings, scorers=["redundancy"])


def test_progress_runs_over_the_tokens_of_all_scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals, done = [], []

    @contextmanager
    def shown(label: str, total: float) -> Iterator[Callable[[float], None]]:
        totals.append(total)
        yield done.append

    monkeypatch.setattr("prune2vec.profiling.measure.progress", shown)
    names = ("redundancy", "redundancy-iterative")
    settings = {"groups": 2, "group_size": 4, "dtype": "float32", "device": "cpu", "scorers": names}
    profile = profile_model(str(save_tiny(tmp_path / "m")), triplets(), **settings)
    # One pass over the whole model for all, and 3 of the iterative scorer for the second of its two rounds.
    assert totals == [pytest.approx(sum(done))] == [profile.texts["tokens"] * (1 + 3)]


def test_no_order_of_scorers_and_no_company_changes_what_is_found(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "m"))
    settings = {"groups": 2, "group_size": 4, "dtype": "float32", "device": "cpu"}
    every = profile_model(model, triplets(), **settings, scorers="redundancy-iterative,redundancy")
    for name in ("redundancy", "redundancy-iterative"):
        assert profile_model(model, triplets(), **settings, scorers=name).sections == {name: every.sections[name]}


def test_float64_is_for_the_cpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_cpu, double = Tensor.cpu, Tensor.double
    fetched: list[Tensor] = []

    def cpu(tensor: Tensor) -> Tensor:
        fetched.append(to_cpu(tensor).clone())
        return fetched[-1]

    def there(tensor: Tensor) -> None:
        """As an Apple GPU says it of what was not fetched."""
        if not any(tensor.untyped_storage().data_ptr() == one.untyped_storage().data_ptr() for one in fetched):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def checked_double(tensor: Tensor) -> Tensor:
        there(tensor)
        return double(tensor)

    model = save_tiny(tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "cpu", cpu)
        patch.setattr(Tensor, "double", checked_double)
        profile_model(str(model), triplets(), groups=1, group_size=8, scorers=["redundancy", "magnitude"], dtype="float32")
    assert fetched


def test_streamed_profiles_are_those_of_the_model_in_memory(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "m"))
    names = ("redundancy", "redundancy-iterative", "magnitude", "angular-distance", "ablation")
    settings = {"groups": 2, "group_size": 4, "dtype": "float32", "device": "cpu", "scorers": names}
    resident = profile_model(model, triplets(), **settings, stream="off")
    streamed = profile_model(model, triplets(), **settings, stream="on")
    assert streamed.layer_loss.loss == pytest.approx(resident.layer_loss.loss, rel=1e-5, abs=1e-5)
    assert streamed.sections["redundancy-iterative"] == resident.sections["redundancy-iterative"]
    assert streamed.shape == resident.shape
    assert "stream" not in resident.environment
    # All scorers in one pass, and others for the three cuts of the second round and the ablation's, one of which is the same.
    runs = streamed.environment["stream"]["runs"]
    assert [run["looks"] for run in runs] == [1, 3 + 5 - 1, 4]
    assert [run["blocks"] for run in runs] == [5, 5, 4], "what all cuts of a step lack is not read"


def test_a_model_that_does_not_fit_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(save_tiny(tmp_path / "m"))
    settings = {"groups": 2, "group_size": 4, "dtype": "float32", "device": "cpu"}
    assert "stream" not in profile_model(model, triplets(), **settings, memory="64GB").environment
    monkeypatch.setattr("prune2vec.forward.backbone.memory_in_use", lambda device: 64 * 10**9)
    assert "stream" in profile_model(model, triplets(), **settings, memory="64GB").environment


@pytest.mark.parametrize("stream", ["on", "off"])
def test_stopping_early_gives_the_curve_up_to_there(tmp_path: Path, stream: str) -> None:
    model, out = str(save_tiny(tmp_path / "m")), tmp_path / "profile.json"
    settings = {"groups": 2, "group_size": 4, "dtype": "float32", "device": "cpu", "stream": stream}
    whole = profile_model(model, triplets(), **settings)
    short = profile_model(model, triplets(), **settings, max_depth=3, output=out)
    assert short.layer_loss.loss == pytest.approx(whole.layer_loss.loss[:3], rel=1e-6)
    assert (short.depths, short.shape, short.settings["max_depth"]) == (3, whole.shape, 3)
    assert Profile.load(out) == short
    assert len(make_plan(short, method="l3prune", variant="small").keep_layers) <= 2
    with pytest.raises(ProfileError, match=r"stops at depth 3 of 5 \(max_depth\), and this choice needs depth 5"):
        make_plan(short, method="l3prune", variant="large")
    deeper = profile_model(model, triplets(), **settings, max_depth=9)
    assert (deeper.depths, deeper.settings["max_depth"]) == (5, None)
    if stream == "on":
        assert short.environment["stream"]["runs"][0]["blocks"] == 3


def test_a_streamed_profile_reads_nothing_beyond_its_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read, take = str(save_tiny(tmp_path / "m")), set(), BlockFiles.take

    def noted_take(self: BlockFiles, name: str, **options: Any) -> torch.Tensor:
        read.add(name)
        return take(self, name, **options)

    monkeypatch.setattr(BlockFiles, "take", noted_take)
    settings = {"groups": 2, "group_size": 4, "dtype": "float32", "device": "cpu", "stream": "on"}
    profile_model(model, triplets(), **settings, max_depth=3)
    assert {name.split(".")[1] for name in read if name.startswith("layers.")} == {"0", "1", "2"}


def test_memory_too_small_for_one_block_is_one_line(tmp_path: Path) -> None:
    model = str(save_tiny(tmp_path / "m"))
    with pytest.raises(ConfigError, match=r"memory is 1 MB, but one block and the longest text need .*; give more memory"):
        profile_model(model, triplets(), groups=2, group_size=4, dtype="float32", device="cpu", memory="1MB")
