"""The functions for users: str or Path everywhere, lists of paths, settings as a mapping, and several threads."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import prune2vec
from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, DataError, Prune2vecError
from prune2vec.public import CALLS, public
from prune2vec.registry import Registry
from tests.tiny import save_tiny

FUNCTIONS = sorted(set(prune2vec.__all__) - {"Profile", "Prune2vecError", "PruningPlan", "__version__"})
SMALL = {"groups": 1, "group_size": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("public")
    save_tiny(made / "model")
    for name, rows in (("a.jsonl", range(2)), ("b.jsonl", range(2, 4)), ("all.jsonl", range(4))):
        lines = [json.dumps({"anchor": f"query {n}", "positive": f"answer {n}", "negative": f"other {n}"}) for n in rows]
        (made / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


@pytest.mark.parametrize("kind", [str, Path])
def test_the_chain_takes_str_and_path(folder: Path, tmp_path: Path, kind: Any) -> None:
    prune2vec.profile(kind(folder / "model"), kind(folder / "all.jsonl"), output=kind(tmp_path / "p.json"), settings=SMALL)
    prune2vec.plan(
        kind(tmp_path / "p.json"), method="depth", depth=2, budget={"max_layers": 3}, output=kind(tmp_path / "plan.json")
    )
    done = prune2vec.prune(kind(folder / "model"), kind(tmp_path / "plan.json"), kind(tmp_path / "small"), pooling="mean")
    assert done == tmp_path / "small"
    (tmp_path / "corpus.jsonl").write_text('{"text": "a bird"}\n', encoding="utf-8")
    assert prune2vec.encode(kind(tmp_path / "small"), kind(tmp_path / "corpus.jsonl"), kind(tmp_path / "out")).rows == 1
    results = prune2vec.evaluate(
        kind(tmp_path / "small"), data=kind(folder / "all.jsonl"), output=kind(tmp_path / "r.json"), settings={"speed-texts": 0}
    )
    compared = prune2vec.compare(kind(tmp_path / "r.json"), output=kind(tmp_path / "table"))
    assert compared.rows[0].score == results.score and (tmp_path / "table" / "report.md").is_file()
    assert prune2vec.load(kind(tmp_path / "small")).get_embedding_dimension() == 32


def test_a_list_of_paths_is_read_and_a_list_of_triplets_taken(folder: Path) -> None:
    whole = prune2vec.profile(folder / "model", folder / "all.jsonl", settings=SMALL)
    parts = [folder / "a.jsonl", str(folder / "b.jsonl")]
    several = prune2vec.profile(folder / "model", parts, settings=SMALL)
    rows = [Triplet(anchor=f"query {n}", positive=f"answer {n}", negatives=(f"other {n}",)) for n in range(4)]
    given = prune2vec.profile(folder / "model", rows, settings=SMALL)
    assert whole.layer_loss == several.layer_loss == given.layer_loss
    assert several.texts["source"] == f"{parts[0]}, {parts[1]}" and given.texts["source"] == "in memory"
    with pytest.raises(DataError, match=r"expected triplets alone.*got \('a', 'b'\)"):
        prune2vec.profile(folder / "model", [("a", "b")], settings=SMALL)  # type: ignore[list-item]


def test_what_can_be_read_once_is_as_good_as_a_list(folder: Path) -> None:
    paths = [folder / "a.jsonl", folder / "b.jsonl"]
    listed, once = (prune2vec.profile(folder / "model", texts, settings=SMALL) for texts in (paths, iter(paths)))
    assert once.texts == listed.texts and once.digest == listed.digest


def _grad_off(torch: Any) -> Any:
    return torch.inference_mode()


def _halves(torch: Any) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@contextmanager
def _doubles(torch: Any) -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("state", [_grad_off, _halves, _doubles])
def test_what_the_caller_has_set_of_torch_changes_nothing(folder: Path, tmp_path: Path, state: Any) -> None:
    import torch

    def chain(to: Path) -> list[Any]:
        model, texts = folder / "model", folder / "all.jsonl"
        measured = prune2vec.profile(model, texts, settings={**SMALL, "scorers": ["all"]})
        prune2vec.prune(model, 2, to / "cut")
        trained = prune2vec.train(to / "cut", texts, to / "out", steps=1, batch_size=2, hard_negatives=1, dtype="float32")
        results = prune2vec.evaluate(to / "out", data=texts, settings={"speed-texts": 0, "dtype": "float32"})
        return [measured.layer_loss, measured.sections, trained.final_loss, results.score]

    with state(torch):
        found = chain(tmp_path / "set")
        assert torch.get_default_dtype() == (torch.float64 if state is _doubles else torch.float32)
        assert torch.is_inference_mode_enabled() is (state is _grad_off)
        assert torch.is_autocast_enabled("cpu") is (state is _halves)
    assert found == chain(tmp_path / "unset")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("thing", [object(), 3, b"bytes", {"a": 1}, [object()]])
def test_what_is_no_path_at_all_is_one_clear_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thing: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "run" and isinstance(thing, dict):
        pytest.skip("a mapping is a recipe")
    with pytest.raises(Prune2vecError) as caught:
        getattr(prune2vec, name)(**arguments(name, thing))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: prune2vec.compare("a", max_drop="1"), "compare: max_drop: expected a number, got str"),  # type: ignore[arg-type]
        (lambda: prune2vec.compare(["a", 3]), "compare: paths: expected a path or a name, got int"),  # type: ignore[list-item]
        (lambda: prune2vec.search("v", "bird", k=True), "search: k: expected a whole number, got bool"),
        (lambda: prune2vec.load("a", device=None), "load: device: expected a text, got None"),  # type: ignore[arg-type]
        (lambda: prune2vec.plan({"a": 1}), "plan: profile: expected a Profile or a path or a name, got dict"),  # type: ignore[arg-type]
        (lambda: prune2vec.run("a", "b", shard=(0, 2)), "run: shard: expected a text, got tuple"),  # type: ignore[arg-type]
    ],
)
def test_an_argument_of_another_kind_is_named(call: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value) == said


@pytest.mark.parametrize("output", ["model", "all.jsonl/x.json", "x" * 300 + ".json", "x" * 240 + ".json", "a\0b", ""])
def test_an_output_that_cannot_be_is_refused_before_work(folder: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("prune2vec.profiling.measure.load_triplets", lambda texts: pytest.fail("work has begun"))
    with pytest.raises(Prune2vecError) as caught:
        prune2vec.profile("model", "all.jsonl", output=output, settings=SMALL)
    assert "\n" not in str(caught.value)


def arguments(name: str, word: Any) -> dict[str, Any]:
    """Return a call's required arguments, each path of them being ``word``."""
    parts = inspect.signature(getattr(prune2vec, name)).parameters.values()
    needed = [part.name for part in parts if part.default is part.empty and part.kind is not part.VAR_KEYWORD]
    return {key: {"target": "onnx", "queries": "bird"}.get(key, word) for key in needed}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_stumbles_over_what_no_path_can_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("x" * 300, "a/" * 3000 + "b", "a\0b", "~nobody-of-that-name/x", "", "\udcff", Path("y" * 300)):
        with pytest.raises(ConfigError) as caught:
            getattr(prune2vec, name)(**arguments(name, word))
        assert "path" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_misspelt_argument_is_named_with_the_close_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = inspect.signature(getattr(prune2vec, name)).parameters
    meant = next(key for key in ("output", "folder", "vectors") if key in parts)
    with pytest.raises(ConfigError, match=rf"'{meant}s'.*did you mean '{meant}'|no parameter '{meant}s'"):
        given = arguments(name, "x")
        if name == "plan":  # The planners' parameters are looked at when the profile has been read.
            pytest.skip("plan names its planner's parameters")
        getattr(prune2vec, name)(**given, **{f"{meant}s": 1})


@pytest.mark.parametrize("settings", [3, "mean", [1], {"poling": "mean"}, {"groups": 2**70}])
def test_settings_of_another_kind_are_one_clear_error(folder: Path, settings: Any) -> None:
    with pytest.raises(ConfigError, match=r"^profile: "):
        prune2vec.profile(folder / "model", folder / "all.jsonl", settings=settings)


def test_threads_have_the_results_of_one(folder: Path) -> None:
    def measure(seed: int) -> Any:
        return prune2vec.profile(folder / "model", folder / "all.jsonl", settings={**SMALL, "seed": seed % 2}).layer_loss

    alone = [measure(0), measure(1)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(measure, range(6))) == alone * 3


def test_cold_threads_find_every_part(folder: Path) -> None:
    code = f"""
import threading, prune2vec
found = []
def work():
    try:
        found.append(prune2vec.profile({str(folder / "model")!r}, {str(folder / "all.jsonl")!r}, settings={SMALL!r}).layer_loss)
    except BaseException as error:
        found.append(repr(error))
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert found == found[:1] * 4 and not isinstance(found[0], str), found
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_one_call_at_a_time_and_a_call_may_call() -> None:
    inside: list[int] = []

    @public("inner")
    def inner() -> int:
        inside.append(1)
        seen = len(inside)
        threading.Event().wait(0.01)
        inside.pop()
        return seen

    @public("outer")
    def outer() -> int:
        return inner()

    with ThreadPoolExecutor(4) as pool:
        assert {call.result() for call in [pool.submit(outer) for _ in range(8)]} == {1}
    assert CALLS.acquire(blocking=False)
    CALLS.release()


def test_a_registry_whose_parts_do_not_import_says_so_every_time() -> None:
    broken: Registry[object] = Registry("part", package="prune2vec.no_such_package")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            broken.names()
