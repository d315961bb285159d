"""The main job: a recipe in, profile, plans, encoders, results and a report out; resumable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from prune2vec.errors import ConfigError, Prune2vecError, did_you_mean
from prune2vec.evaluation.results import Results
from prune2vec.evaluation.tasks import resolve_tasks
from prune2vec.experiments.answers import Answer, load_answers
from prune2vec.experiments.cell_table import Cell, SweepRecord, cell_rows, write_tables
from prune2vec.experiments.comparison import Comparison, ResultRow, comparison_of
from prune2vec.experiments.figures import Row
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.report import ReportData
from prune2vec.experiments.stage_runner import (
    ANSWERS,
    MANIFEST,
    PROFILE,
    RECIPE,
    REPORT,
    RESULTS,
    STAMPS,
    SWEEP,
    Step,
    count_of_shards,
)
from prune2vec.experiments.stages import Stages
from prune2vec.experiments.sweep import read_shard
from prune2vec.experiments.trained_together import done_apart
from prune2vec.experiments.variant_run import VariantRun
from prune2vec.files import write_json, write_text
from prune2vec.machine import describe
from prune2vec.outputs import RUN, OwnFolder, check_kind, clear_all_partials, own_folder
from prune2vec.profiling.profile import Profile
from prune2vec.progress import say
from prune2vec.public import public
from prune2vec.training.train_settings import check_tracker

_FORMAT = "prune2vec.manifest/1"
_DEMO = """\
The demo of prune2vec, with SmolLM2-135M-Instruct and the docstrings of the Python packages installed here:
  1. mine (summary line, rest of the docstring, hard negative) triplets; hold out whole packages
  2. profile: the contrastive loss of all 30 depths on {tuples} triplets
  3. plan: full keeps all layers, half the first half of them; large and small are the two depths that L3Prune picks
  4. train them in one run, {steps} steps of {batch} triplets with the loss at each depth, and cut each out of it
  5. evaluate them on the packages held out, and answer {queries} questions with the small encoder
It takes about 10 minutes on 2 cores, up to 4 GB of memory and 3 GB of disk in {folder}.
Stop it whenever you like: the same command resumes where it was."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did.

    Attributes:
        folder: Folder of the run.
        steps: Its stages, in order.
        comparison: The results side by side; None when nothing was evaluated, or in a dry run.
        answers: The recipe's example queries with what the smallest encoder found.
        dry_run: Whether nothing was done.
        errors: What stopped the cells of a sweep that failed, by name.
        page: The report to be looked at; None in a dry run, or where every cell failed.
    """

    folder: Path
    steps: tuple[Step, ...]
    comparison: Comparison | None = None
    answers: tuple[Answer, ...] = ()
    dry_run: bool = False
    errors: Mapping[str, str] = field(default_factory=dict)
    page: Path | None = None

    @property
    def failed(self) -> bool:
        """Whether a cell failed, so that the program ends with 1."""
        return bool(self.errors)

    def render(self) -> str:
        """Return the report as plain text."""
        if self.dry_run:
            return "\n".join(step.render() for step in self.steps)
        parts = [self.comparison.render() if self.comparison is not None else ""]
        parts += [one.render() for one in self.answers]
        parts += ["\n".join(f"{name} failed: {reason}" for name, reason in self.errors.items())]
        parts += [f"report: {self.page}"] if self.page is not None else []
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "output": str(self.folder),
            "dry_run": self.dry_run,
            "steps": [asdict(step) for step in self.steps],
            "comparison": self.comparison.to_json() if self.comparison is not None else None,
            "answers": [asdict(one) for one in self.answers],
            "errors": dict(self.errors),
            "report": None if self.page is None else str(self.page),
        }


@public("run", "recipe", "output")
def run_recipe(
    recipe: Recipe | Path | str | Mapping[str, Any],
    output: Path | str,
    *,
    stages: Stages | None = None,
    dry_run: bool = False,
    cell: str | None = None,
    shard: str | None = None,
) -> Report:
    """Profile, plan, prune, train and evaluate every variant of a recipe, then compare them.

    A cell of a sweep that fails does not stop the others.

    A stage is skipped when its output is there and its settings and inputs have not changed, so a run that was killed is
    resumed by the same call and ends with the same result.

    Args:
        recipe: A recipe, its YAML file, or a mapping with its keys.
        output: Folder of the run: new, empty or of an earlier run.
        stages: What does the work; default: the functions of this package.
        dry_run: Only find out which stages would run and which would be skipped; writes nothing.
        cell: Do this variant alone, and those that it learns from.
        shard: Do a part of the variants, ``"0/4"`` the first of four, in a folder of its own below ``output``;
            ``compare`` puts the parts together.

    Raises:
        ConfigError: The recipe is wrong, there is no such cell or shard, or another run holds the folder.
        CheckpointError: The folder holds something else, or a file of the run was changed since.
        Prune2vecError: A stage failed; all stages before it stay done.
    """
    stages = stages or Stages()
    given = recipe_of(recipe)
    recipe, go_on = given.swept().taught(), given.sweep is not None
    folder, only = _chosen(recipe, Path(output).absolute(), cell, shard)
    # Refused at once, not after hours of the stages before.
    trained = [variant.training(recipe.train) for variant in recipe.variants]
    for tracker in dict.fromkeys(settings.report_to for settings in trained if settings is not None):
        check_tracker(tracker)
    if recipe.evaluate is not None and recipe.evaluate.tasks:
        resolve_tasks(recipe.evaluate.tasks, Path(recipe.evaluate.mirror) if recipe.evaluate.mirror else None)
    if dry_run:
        check_kind(folder, RUN)
        run = VariantRun(recipe, folder, stages, None, only=only, go_on=go_on)
        run.do()
        return Report(folder=folder, steps=tuple(run.runner.steps), dry_run=True)
    with own_folder(folder, RUN) as own:
        clear_all_partials(folder)
        own.check(RECIPE, *REPORT)
        run = VariantRun(recipe, folder, stages, own, only=only, go_on=go_on)
        try:
            run.do()
        except BaseException as error:
            if (folder / STAMPS).exists():
                error.add_note(f"{folder} keeps the stages that are done, after which the same command resumes")
            else:
                # A recipe edited meanwhile stays; that must not hide why the stage failed.
                with suppress(Prune2vecError):
                    own.remove(RECIPE)
            raise
        with own.writing(RECIPE, *REPORT):
            whole = run if cell is None else _with_others(run, _chosen(recipe, Path(output).absolute(), None, shard)[1])
            return _finish(run, whole, own, given.cells)


def recipe_of(recipe: Recipe | Path | str | Mapping[str, Any]) -> Recipe:
    """Return a recipe as it is, or read one."""
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, Mapping | Path | str):
        raise ConfigError(f"run: recipe: expected a Recipe, its file or a mapping with its keys, got {type(recipe).__name__}")
    return Recipe.of(recipe) if isinstance(recipe, Mapping) else Recipe.load(Path(recipe))


def _chosen(recipe: Recipe, output: Path, cell: str | None, shard: str | None) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of a run, and the names of the variants that it does."""
    names = tuple(variant.name for variant in recipe.variants)
    if shard is not None:
        number, count = read_shard(shard)
        # What is trained together is one training, and so in one shard. They are dealt to and fro: where there are as many sizes as
        # shards, none gets the largest alone.
        turns, output = (number, 2 * count - 1 - number), output / f"shard-{number:05d}-of-{count:05d}"
        apart = [name for place, name in enumerate(done_apart(recipe)) if place % (2 * count) in turns]
        names = tuple(variant.name for variant in recipe.variants if (variant.trained_with or variant.name) in apart)
    if cell is not None and cell not in names:
        raise ConfigError(f"no cell{f' of shard {shard}' if shard else ''} is called {cell!r}{did_you_mean(cell, names)}")
    if not names:
        raise ConfigError(f"shard {shard} has no cell; there are {len(done_apart(recipe))} that are trained apart")
    return output, names if cell is None else (cell,)


@public("run", "recipe", "output")
def list_cells(
    recipe: Recipe | Path | str | Mapping[str, Any],
    output: Path | str,
    *,
    stages: Stages | None = None,
    shard: str | None = None,
) -> CellList:
    """Find out which cells of a recipe are done in a folder; nothing is done or written.

    Args:
        recipe: As for ``run_recipe``.
        output: Folder of the run.
        stages: As for ``run_recipe``.
        shard: Only those of a shard, in its folder; without it those of all shards, where the folder holds some.

    Raises:
        ConfigError: The recipe is wrong, or there is no such shard.
        CheckpointError: The folder holds something else.
    """
    given = recipe_of(recipe)
    whole = given.swept().taught()
    if shard is None and (count := count_of_shards(Path(output))):
        parts = [f"{number}/{count}" for number in range(min(count, len(done_apart(whole))))]
        each = [list_cells(given, output, stages=stages, shard=part).states for part in parts]
        known = {name: state for one in each for name, state in one.items()}
        return CellList(states={variant.name: known[variant.name] for variant in whole.variants})
    folder, only = _chosen(whole, Path(output).absolute(), None, shard)
    check_kind(folder, RUN)
    run = VariantRun(whole, folder, stages or Stages(), None, only=only)
    run.do()
    waiting = _waiting(run, only)
    states = {
        name: f"failed: {waiting[name]}" if waiting.get(name) else "to do" if name in waiting else "done" for name in only
    }
    return CellList(states=states)


@dataclass(frozen=True)
class CellList:
    """The state of each cell by name: done, to do, or why it failed."""

    states: Mapping[str, str]

    def render(self) -> str:
        """Return one line a cell."""
        width = max(map(len, self.states))
        return "\n".join(f"{name:<{width}}  {state}" for name, state in self.states.items())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"cells": dict(self.states)}


def _waiting(run: VariantRun, names: Iterable[str]) -> dict[str, str]:
    """Return which variants of a dry run are not done, each with what stopped it the last time; empty where nothing did."""
    file = run.folder / SWEEP
    errors = SweepRecord.load(file).errors if file.is_file() else {}
    would_run = {step.name.rpartition(".")[0] for step in run.runner.steps if step.outcome == "would run"}
    return {name: errors.get(name, "") for name in names if {name, run.same_cut_as.get(name)} & would_run}


def _with_others(run: VariantRun, names: Sequence[str]) -> VariantRun:
    """Return a run of one cell with what earlier runs did of the others, or what stopped them, for the tables of all."""
    others = VariantRun(run.recipe, run.folder, run.stages, None, only=names, go_on=True)
    others.do()
    waiting = _waiting(others, [name for name in names if name not in run.compared])
    others.errors = {name: reason for name, reason in waiting.items() if reason} | run.errors
    plans = {**others.plans, **run.compared}
    others.runner.records |= run.runner.records
    others.plans = {name: plans[name] for name in names if name in plans and name not in waiting}
    # What this run has made itself is no copy, whatever the others keep.
    copies = {name: other for name, other in others.same_cut_as.items() if name not in run.compared} | run.same_cut_as
    others.same_cut_as = {name: other for name, other in copies.items() if {name, other} <= others.plans.keys()}
    return others


def _finish(run: VariantRun, whole: VariantRun, own: OwnFolder, cells: tuple[Cell, ...]) -> Report:
    """Write the manifest and the report, of what is done of the ``whole``; quick, so done anew every time."""
    plans = whole.compared
    folder, record = run.folder, SweepRecord(cells=cells, errors=whole.errors)
    comparison, profile, same = None, Profile.load(folder / PROFILE), whole.same_cut_as
    own.check(*(f"{name}/{RESULTS}" for name in same if name in plans))
    # What is not written this time would tell of an earlier recipe.
    for name in REPORT:
        (folder / name).unlink(missing_ok=True)
    if cells:
        record.save(folder / SWEEP)
    facts = _manifest(whole, profile)
    if not plans:
        write_json(folder / MANIFEST, facts)
        return Report(folder=folder, steps=tuple(run.runner.steps), errors=run.errors)
    rows: Sequence[Row] = [{"cell": name, "parameters": plan.shape.params(plan.kept)} for name, plan in plans.items()]
    if run.recipe.evaluate is not None:
        for name in [name for name in same if name in plans]:
            with own.writing(f"{name}/{RESULTS}"):
                write_text(folder / name / RESULTS, (folder / same[name] / RESULTS).read_text(encoding="utf-8"))
        results = [
            ResultRow(
                name=name,
                results=Results.load(folder / name / RESULTS),
                plan=plan,
                same_as=same.get(name),
                teacher=whole.teacher_of(name),
            )
            for name, plan in plans.items()
        ]
        comparison = comparison_of(results)
        rows = cell_rows(comparison, record)
    answers = tuple(load_answers(folder / ANSWERS)) if "answer" in run.runner.records else ()
    data = ReportData(
        profile=profile,
        plans=plans,
        same_cut_as=same,
        comparison=comparison,
        answers=answers,
        answered_by=run.smallest() or "",
        rows=rows,
        encoders={name: whole.encoder_folder(name) for name in plans if name not in same},
        manifest=facts,
        recipe=run.recipe.to_yaml(),
    )
    write_text(folder / RECIPE, data.recipe)
    write_json(folder / MANIFEST, facts)
    run.stages.report(data, folder)
    if cells and comparison is not None:
        write_tables(rows, folder)
    return Report(
        folder=folder,
        steps=tuple(run.runner.steps),
        comparison=comparison,
        answers=answers,
        errors=run.errors,
        page=folder / "report.html",
    )


def _manifest(run: VariantRun, profile: Profile) -> dict[str, Any]:
    """Return everything needed to do a run again and get the same numbers.

    A stage's seconds are those of the run that finished it; a training that was interrupted and resumed counts from there
    (its own record in the encoder's folder has the whole time).
    """
    recipe, records = run.recipe.model_dump(mode="json"), run.runner.records
    return {
        "format": _FORMAT,
        "model": dict(profile.model),
        "recipe": recipe,
        "data": dict(sorted(run.sources.items())),
        "seeds": dict(_seeds(recipe)),
        "plans": {name: {"digest": plan.digest, "layers": len(plan.keep_layers)} for name, plan in run.plans.items()},
        "same_layers_as": run.same_cut_as,
        "stages": {
            name: {"key": one.key, "output": one.output_digest, "seconds": one.seconds, "finished": one.finished}
            for name, one in records.items()
        },
        "seconds": round(sum(one.seconds for one in records.values()), 3),
        "environment": describe(),
    }


def _seeds(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in values.items():
        if key == "variants":
            for variant in value:
                yield from _seeds(variant, f"{variant['name']}.")
        elif isinstance(value, Mapping):
            yield from _seeds(value, f"{prefix}{key}.")
        elif key == "seed":
            yield f"{prefix}{key}", value


def demo_recipe() -> Recipe:
    """Return the recipe of the demo: the main job on the default model and the docstrings of the packages installed here."""
    with as_file(files("prune2vec.experiments").joinpath("demo.yaml")) as path:
        return Recipe.load(path)


def run_demo(output: Path | str = "runs/demo", *, stages: Stages | None = None) -> Report:
    """Run the demo in the folder ``output``; says first what it will do and how long it takes.

    Raises:
        Prune2vecError: A stage failed, for example because the default model is neither installed nor available.
    """
    recipe = demo_recipe()
    train, profile = recipe.train, recipe.profile
    assert train is not None
    tuples, queries = profile.groups * profile.group_size, len(recipe.queries)
    say(_DEMO.format(tuples=tuples, steps=train.steps, batch=train.batch_size, queries=queries, folder=output))
    return run_recipe(recipe, output, stages=stages)
