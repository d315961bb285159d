"""Small real stages that write files, so that a run can be tried without a model."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import METRICS, Results
from prune2vec.experiments.answers import Answer, AnswerHit, save_answers
from prune2vec.experiments.recipe import Evaluation, Mine, Recipe
from prune2vec.experiments.report import ReportData, report_markdown
from prune2vec.experiments.run import Report, run_recipe
from prune2vec.experiments.stages import Stages
from prune2vec.files import digest_file, digest_tree, write_json, write_text
from prune2vec.models.shape import ModelShape
from prune2vec.outputs import staged_folder
from prune2vec.planning.plan import PruningPlan
from prune2vec.profiling.profile import LayerLoss, Profile
from prune2vec.progress import set_enabled

LAYERS, WIDTH = 12, 100
VARIANTS = ("full", "large", "small")
TWO_BASINS = (3.0, 2.6, 2.2, 2.5, 2.9, 3.1, 3.0, 2.4, 1.9, 1.7, 2.0, 2.3)
FALLING = tuple(3.0 - 0.1 * depth for depth in range(LAYERS))
METRICS_OF_BM25 = {name: 0.5 for name in METRICS}


def shape() -> ModelShape:
    return ModelShape(
        model_type="llama",
        num_layers=LAYERS,
        hidden_size=8,
        attention_width=8,
        embedding_params=1_000_000,
        block_params=(500_000,) * LAYERS,
        block_matmul_params=(490_000,) * LAYERS,
        final_params=8,
        bytes_per_param=4,
        attention_params=(200_000,) * LAYERS,
        attention_matmul_params=(190_000,) * LAYERS,
        mlp_params=(300_000,) * LAYERS,
        mlp_matmul_params=(300_000,) * LAYERS,
        mlp_width=(WIDTH,) * LAYERS,
        neuron_params=(3_000,) * LAYERS,
        neuron_matmul_params=(3_000,) * LAYERS,
    )


def profile_of(loss: Sequence[float] = TWO_BASINS, *, name: str = "toy") -> Profile:
    curve = LayerLoss(
        loss=tuple(loss),
        std_error=(0.05,) * LAYERS,
        accuracy=tuple(1 / value for value in loss),
        alignment=(0.1,) * LAYERS,
        uniformity=(-1.0,) * LAYERS,
        group_loss=(tuple(loss), tuple(loss)),
    )
    return Profile(model={"name": name, "revision": None, "fingerprint": "f"}, shape=shape(), layer_loss=curve)


def items_of(values: Sequence[float], **about: Any) -> dict[str, Any]:
    return asdict(ItemScores.of(values, **{"items": "these", "unit": "queries", **about}))


def results_of(
    folder: str | Path = "encoder", *, params: int = 7_000_000, score: float = 0.5, docs_per_s: float = 10.0, **changes: Any
) -> Results:
    retrieval = {
        "data": {"source": "dev.jsonl", "digest": "d", "queries": 40, "documents": 90},
        "metrics": {name: score for name in METRICS},
        "items": items_of([score] * 40),
        "bm25": {"metrics": METRICS_OF_BM25, "items": items_of([METRICS_OF_BM25[METRICS[0]]] * 40)},
    }
    values: dict[str, Any] = {
        "encoder": {"path": str(folder), "record": {}},
        "size": {"parameters": params, "embedding_parameters": 1_000_000, "disk_bytes": 4 * params},
        "memory": {"process": 1, "encoding": 1, "cuda": None},
        "speed": {"documents": {"texts_per_s": docs_per_s, "tokens_per_s": 100 * docs_per_s}},
        "retrieval": retrieval,
        "environment": {"cpu": "a chip", "gpu": None, "threads": 1, "versions": {"torch": "2"}, "platform": "Linux"},
    }
    return Results(**{**values, **changes})


class SmallStages(Stages):
    """Stages that compute digests in place of models, a little at a time; every call is noted in ``calls``.

    Args:
        pause: Seconds between two pieces of work, so that a kill falls in the middle.
        loss: The curve that the profile stage finds.
        full_report: Write the report with its pictures, which takes as long as all else together.
    """

    def __init__(self, *, pause: float = 0.0, loss: Sequence[float] = TWO_BASINS, full_report: bool = False) -> None:
        self.calls: list[str] = []
        self._pause = pause
        self._loss = loss
        self._full_report = full_report

    def check(self, recipe: Recipe) -> None:
        pass

    def mine(self, settings: Mine, output: Path) -> None:
        self.calls.append("mine")
        with staged_folder(output, "an encoder") as stage:
            for name in ("train", "dev", "corpus"):
                rows = [{"_id": f"{name}.{row}", "text": f"{name} {settings.seed} {row}"} for row in range(3)]
                packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
                (stage / f"{name}.jsonl.gz").write_bytes(packed)
                self._work()
            write_json(stage / "mined.json", {"when": time.time()})

    def profile(self, model: str, texts: Sequence[str], settings: Any, output: Path) -> None:
        self.calls.append("profile")
        self._work()
        assert texts
        assert all(Path(text).exists() for text in texts)
        found = profile_of(self._loss, name=model)
        Profile(**{**vars(found), "settings": settings.model_dump(mode="json")}).save(output)

    def slim(self, model: str, plan: Path, texts: Sequence[str], settings: Any, output: Path) -> None:
        """Cut the last neurons of every MLP, as many as the plan or the settings say."""
        self.calls.append(f"slim {output.parent.name}")
        assert all(Path(text).exists() for text in texts)
        given = PruningPlan.load(plan)
        stay = range(math.ceil((1 - (settings.width_cut or given.width_cut)) * WIDTH))
        self._work()
        given.slimmed({layer: tuple(stay) for layer in given.kept.mlps}, ranking=settings.importance).save(output)

    def prune(self, model: str, plan: Path | int, settings: Any, output: Path) -> None:
        self.calls.append(f"prune {output.parent.name}")
        if isinstance(plan, int):
            with staged_folder(output, "an encoder") as stage:
                write_json(stage / "weights.json", {"of": digest_tree(Path(model)), "depth": plan})
                self._work()
            return
        loaded = PruningPlan.load(plan)
        assert not loaded.width_cut, "prune cannot decide a width"
        kept = loaded.keep_layers
        with staged_folder(output, "an encoder") as stage:
            for layer in kept:
                (stage / f"layer-{layer}.bin").write_bytes(hashlib.sha256(f"{model} {layer}".encode()).digest() * 100)
                self._work()
            if loaded.neurons:
                write_json(stage / "widths.json", {layer: len(stay) for layer, stay in loaded.neurons.items()})
            write_json(
                stage / "prune2vec.json", {"keep_layers": list(kept), "num_layers": LAYERS, "attention": settings.attention}
            )

    def train(self, checkpoint: Path, texts: Sequence[str], settings: Any, output: Path, *, plain: bool = False) -> None:
        """A chain of digests that is kept step by step beside the output, and gone on with."""
        self.calls.append(f"train {output.parent.name}")
        state_file = output.parent / f".{output.name}.training" / "state.json"
        identity = {
            "base": digest_tree(checkpoint),
            "texts": [digest_file(Path(t)) for t in texts],
            "lr": settings.learning_rate,
            "depths": list(settings.depths),
            "seed": settings.seed,
        }
        state: dict[str, Any] = {"identity": identity, "chain": "", "losses": []}
        if state_file.exists():
            found = json.loads(state_file.read_text())
            state = found if found["identity"] == identity else state
        while len(state["losses"]) < settings.steps:
            step = len(state["losses"])
            state["chain"] = hashlib.sha256(f"{identity} {state['chain']} {step}".encode()).hexdigest()
            state["losses"].append(int(state["chain"][:4], 16) / 65536)
            write_json(state_file, state)
            self._work()
        with staged_folder(output, "an encoder") as stage:
            write_json(stage / "weights.json", state["chain"])
            self._work()
            curve = [json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in enumerate(state["losses"], start=1)]
            write_text(stage / "train.jsonl", "".join(curve))

    def evaluate(self, encoder: Path, evaluation: Evaluation, output: Path) -> None:
        self.calls.append(f"evaluate {output.parent.name}")
        self._work()
        assert evaluation.data
        params = PruningPlan.load(encoder.parent / "plan.json").shape.params(
            PruningPlan.load(encoder.parent / "plan.json").keep_layers
        )
        number = int(digest_tree(encoder)[:6], 16) / 16**6
        about = {"path": str(encoder), "record": {}, "content_digest": digest_tree(encoder)}
        results_of(encoder, params=params, score=number, docs_per_s=1e9 / params, encoder=about).save(output)

    def answer(self, encoder: Path, texts: str, queries: Sequence[str], settings: Any, output: Path) -> None:
        self.calls.append(f"answer {encoder.parent.name}")
        assert Path(texts).exists()
        save_answers([Answer(query=query, hits=(AnswerHit(name="a.b", text="found", score=0.5),)) for query in queries], output)

    def report(self, story: ReportData, folder: Path) -> None:
        if self._full_report:
            super().report(story, folder)
        else:
            write_text(folder / "report.md", report_markdown(story))

    def _work(self) -> None:
        time.sleep(self._pause)


def recipe_values(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe of files that exist."""
    for name in ("train", "dev"):
        write_text(folder / f"{name}.jsonl", f'{{"text": "{name}"}}\n')
    data = {"train": str(folder / "train.jsonl"), "dev": str(folder / "dev.jsonl")}
    return {"model": "toy", "data": data, "train": {"steps": 4}, **changes}


class Run:
    """A recipe with small stages that can be run again with changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "run"

    def __call__(self, *, small: SmallStages | None = None, dry_run: bool = False, **changes: Any) -> tuple[Report, list[str]]:
        small = small or SmallStages()
        report = run_recipe(recipe_values(self.folder, **changes), self.output, stages=small, dry_run=dry_run)
        return report, small.calls


def serve_runs(recipe: Path, output: Path, *, pause: float) -> None:
    """Read seconds from stdin; for each line start a run in a process of its own and kill it after so many seconds.

    All processes are forked from this one, which has imported everything: importing takes longer than the run.
    """
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run_recipe(recipe, output, stages=SmallStages(pause=pause))
            os._exit(0)
        deadline = time.monotonic() + float(line)
        ended, status = 0, 0
        while not ended and time.monotonic() < deadline:
            time.sleep(0.005)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    set_enabled(False)
    serve_runs(Path(sys.argv[1]), Path(sys.argv[2]), pause=float(sys.argv[3]))
