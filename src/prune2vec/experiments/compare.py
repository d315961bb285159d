"""``compare``: results in, one table and one page out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from prune2vec.errors import ConfigError, DataError, EvaluationError, PlanError, ProfileError
from prune2vec.evaluation.results import Results
from prune2vec.experiments.cell_table import SweepRecord, cell_rows, write_tables
from prune2vec.experiments.comparable import other_settings, reasons
from prune2vec.experiments.comparison import Comparison, ResultRow, comparison_of
from prune2vec.experiments.figures import Picture, Row, pictures, training_curve, write_pictures
from prune2vec.experiments.ranking_diff import OWN_DATA, SCORE, ranking_diffs
from prune2vec.experiments.report import baseline_of, comparison_html, figures_markdown
from prune2vec.experiments.stage_runner import (
    ENCODER,
    FIGURES,
    MANIFEST,
    PLAN,
    PROFILE,
    RECIPE,
    RESULTS,
    SLIM_PLAN,
    STAMPS,
    SWEEP,
    SWEEP_TABLES,
    StageRecord,
    count_of_shards,
    shards_in,
)
from prune2vec.experiments.yaml_file import read_yaml
from prune2vec.files import read_json, write_json, write_text
from prune2vec.models.kept import Kept
from prune2vec.outputs import COMPARISON, own_folder
from prune2vec.paths import check_target
from prune2vec.planning.plan import PruningPlan
from prune2vec.profiling.profile import Profile
from prune2vec.progress import say
from prune2vec.public import public

T = TypeVar("T")
WRITTEN = ("comparison.json", "report.md", "report.html", *FIGURES, *SWEEP_TABLES)


@public("compare", "paths", "output", "gate")
def compare_results(
    paths: Path | str | Sequence[Path | str],
    *,
    output: Path | str | None = None,
    gate: Path | str | None = None,
    max_drop: float = 0.0,
    diff: bool = False,
) -> Comparison:
    """Put results side by side, each with the 95 % interval of its difference to the first.

    Args:
        paths: One or several results files, folders that hold ``results.json``, or folders of runs; the first result found is what the
            others are compared with.
        output: Folder for ``comparison.json``, ``report.md``, ``report.html`` and the figures as SVG: new, empty or of an earlier
            comparison; None writes nothing.
        gate: Earlier results, one file for one or a run for a run: what has become worse since is in ``Comparison.losses``.
        max_drop: So many points of 100 may be lost before that counts.
        diff: Find the queries that the second of two results ranks worse than the first, with their texts.

    Raises:
        DataError: A path does not exist or leads to no results.
        EvaluationError: A file is not a results file, or the earlier results were not measured on the same thing.
        ConfigError: Another call writes the folder, ``diff`` has not two results, or ``max_drop`` is no number of points.
        CheckpointError: The folder holds something else, or a file in it was changed since.
    """
    if not 0 <= max_drop <= 100:
        raise ConfigError(f"max_drop is {max_drop}; expected points, from 0 to 100")
    folder = check_target(Path(output), folder=True) if output is not None else None
    several = [paths] if isinstance(paths, str | Path) else paths
    files, record = _found(several)
    rows = _rows(files, of_sweep=record is not None)
    if diff and len(rows) != 2:
        raise ConfigError(
            f"the worst queries are those of one result against another one; got {len(rows)} results, expected two"
        )
    comparison = comparison_of(list(_with_teachers(rows)))
    if gate is not None:
        before = {name: Results.load(file) for name, file in _found([gate])[0].items()}
        found = losses({row.name: row.results for row in rows}, before, gate=Path(gate), max_drop=max_drop)
        comparison = replace(comparison, losses=found)
    if diff:
        worst = ranking_diffs(*(row.results for row in rows))
        none = () if worst else ("No queries are shown: there are none that both results hold the scores of.",)
        comparison = replace(comparison, worst=worst, notes=(*comparison.notes, *none))
    if folder is not None:
        table = cell_rows(comparison, record or SweepRecord(cells=()))
        figures = _figures(table, files, comparison)
        with own_folder(folder, COMPARISON) as own, own.writing(*WRITTEN):
            for name in SWEEP_TABLES:
                (folder / name).unlink(missing_ok=True)
            write_json(folder / "comparison.json", comparison.to_json())
            write_pictures(figures, folder)
            parts = ["# Comparison", comparison.to_markdown().rstrip(), figures_markdown(figures)]
            write_text(folder / "report.md", "\n\n".join(filter(None, parts)) + "\n")
            write_text(folder / "report.html", comparison_html(comparison, table, figures))
            if record is not None:
                write_tables(table, folder)
    return comparison


def _found(paths: Sequence[Path | str]) -> tuple[Mapping[str, Path], SweepRecord | None]:
    """Return the results that paths lead to by name, and the record of the sweep that all of them are of, where they are of one.

    Raises:
        DataError: There are none.
    """
    places = [place for path in paths for place in _shards_done(Path(path)) or [Path(path)]]
    files, record = _in_order(find_results(places), places)
    if not files:
        failed = [f"; {name} failed: {reason}" for name, reason in (record.errors if record is not None else {}).items()]
        raise DataError(f"nothing to compare, no cell of {places[0]} has results{''.join(failed[:1])}")
    return files, record


def _shards_done(folder: Path) -> list[Path]:
    """Return the shards in a folder that are done, or failed; says which are not, or not there."""
    shards, count = {path.name: path for path in shards_in(folder)}, count_of_shards(folder) or 0
    done = {name: path for name, path in shards.items() if (path / MANIFEST).is_file()}
    if waiting := [number for number in range(count) if f"shard-{number:05d}-of-{count:05d}" not in done]:
        say(f"{folder}: of its {count} shards not done, and left out: {', '.join(map(str, waiting))} (the first is 0)")
    return list(done.values())


def _rows(files: Mapping[str, Path], *, of_sweep: bool) -> list[ResultRow]:
    """Return the results with their plans; one of a run, or of a sweep, with an earlier one's encoder is the same as that."""
    rows: list[ResultRow] = []
    first: dict[object, str] = {}
    for name, file in files.items():
        results, run = Results.load(file), file.absolute().parent.parent
        # Of a run a variant's plan lies beside its results; what lies beside other results may be any plan.
        in_run = file.name == RESULTS and _is_run(run)
        beside = [file.parent / SLIM_PLAN, file.parent / PLAN] if in_run else []
        folders = (*beside, Path(str(results.encoder.get("path", ""))) / PLAN)
        plans = (_readable(PruningPlan.load, place, "a plan") for place in folders if place.exists())
        digest = results.encoder.get("content_digest") if in_run else None
        same = name if digest is None else first.setdefault((None if of_sweep else run, digest), name)
        plan = next(filter(None, plans), None)
        rows.append(ResultRow(name=name, results=results, plan=plan, same_as=same if same != name else None))
    return rows


def _with_teachers(rows: Sequence[ResultRow]) -> Iterator[ResultRow]:
    """Yield the rows, each with the one whose vectors its encoder learnt by its record, or an uncut, untrained copy of that.

    An encoder that was cut out of one trained at several depths, this one among them, learnt what that did.
    """
    made: dict[Any, str] = {digest: row.name for row in rows if (digest := row.results.encoder.get("digest"))}
    copies: dict[Any, str] = {row.model: row.name for row in reversed(rows) if _is_a_copy(row)}
    elastic = {Path(row.results.encoder.get("path", "")): row.training for row in rows if row.training.get("depths")}
    for row in rows:
        # By its own record: the plan of a run's variant names the model that all were cut from.
        source = (row.results.encoder.get("record") or {}).get("model") or {}
        whole = elastic.get(Path(str(source.get("name")))) or {}
        depth = len(row.kept.layers) if row.kept is not None else 0
        taken = depth in whole.get("depths", ()) and row.kept == Kept.of(range(depth))
        training = row.training or (whole if taken else {})
        teacher = (training.get("identity") or {}).get("teacher")
        named = (training.get("settings") or {}).get("teacher")
        yield replace(row, teacher=made.get(teacher) or copies.get(named))


def _is_a_copy(row: ResultRow) -> bool:
    """Return whether a row's encoder is the model as it is: nothing cut, trained, or made to look both ways."""
    if row.training or row.plan is None or not row.plan.keeps_all:
        return False
    attention: str = (row.results.encoder.get("record") or {}).get("attention", "causal")
    looks_back = attention == "causal"
    return looks_back == row.plan.shape.causal


def _figures(table: Sequence[Row], files: Mapping[str, Path], comparison: Comparison) -> list[Picture]:
    """Return the figures of a comparison; of results that lie in runs also the training curves, and the profiles of several models."""
    curves = {name: _readable(training_curve, file.parent / ENCODER, "a figure") or [] for name, file in files.items()}
    profiles: dict[str, tuple[Path, Profile]] = {}
    for run in dict.fromkeys(file.absolute().parent.parent for file in files.values()):
        if (run / PROFILE).is_file():
            profile = _readable(Profile.load, run / PROFILE, "a figure")
            if profile is not None:
                profiles.setdefault(profile.digest, (run, profile))
    models = [str(profile.model.get("name")).rpartition("/")[2] for _, profile in profiles.values()]
    named = [
        (f"{name} ({run.name})" if models.count(name) > 1 else name, profile)
        for name, (run, profile) in zip(models, profiles.values(), strict=True)
    ]
    return pictures(table, curves=curves, profiles=named, baseline=baseline_of(comparison))


def _readable(load: Callable[[Path], T], path: Path, what: str) -> T | None:
    """Return what a file holds; one that cannot be read is left out, which is said."""
    try:
        return load(path)
    except (DataError, PlanError, ProfileError) as error:
        say(f"{what} is left out: {error}")
        return None


def find_results(paths: Sequence[Path]) -> dict[str, Path]:
    """Return a short, distinct name for each results file that ``paths`` lead to, in their order.

    A path may be a results file, a folder that holds ``results.json``, or a folder whose folders do (a run; one of a sweep may
    have none, where every cell failed). Of a run there are the variants that its recipe has, in its order; others are an earlier
    recipe's.
    """
    files: dict[Path, None] = {}
    for path in paths:
        found = [path / RESULTS] if (path / RESULTS).is_file() else sorted(path.glob(f"*/{RESULTS}"))
        found = _of_recipe(path, found) if _is_run(path) else found
        if not path.is_file() and not found and not (path / SWEEP).is_file():
            if _is_run(path):
                raise DataError(f"{path} has no results of its recipe; run it again")
            reason = f"holds no {RESULTS}, nor do its folders" if path.is_dir() else "does not exist"
            raise DataError(f"{path} {reason}; make one with prune2vec evaluate -o {RESULTS}")
        files |= dict.fromkeys([path] if path.is_file() else found)
    if not files and not any((path / SWEEP).is_file() for path in paths):
        raise DataError("nothing to compare; give results.json files, or folders that hold them")
    return dict(zip(_short_names(list(files)), files, strict=True))


def _short_names(files: Sequence[Path]) -> list[str]:
    """Return for each results file the shortest end of its path that tells it from the others."""
    whole = [file.absolute().parent.parts if file.name == RESULTS else file.absolute().with_suffix("").parts for file in files]
    whole = [
        file.absolute().parts if whole.count(parts) > 1 and file.name != RESULTS else parts
        for file, parts in zip(files, whole, strict=True)
    ]
    lengths = [1] * len(whole)
    while True:
        names = ["/".join(parts[-length:]) for parts, length in zip(whole, lengths, strict=True)]
        longer = [
            length + (names.count(name) > 1 and length < len(parts))
            for name, parts, length in zip(names, whole, lengths, strict=True)
        ]
        if longer == lengths:
            return names
        lengths = longer


def _of_recipe(run: Path, results: Sequence[Path]) -> list[Path]:
    """Return the results of the variants that a run's recipe has, in its order; says which others are left out."""
    there = {file.parent.name: file for file in results}
    variants = [str(variant["name"]) for variant in read_yaml(run / RECIPE).values["variants"]]
    found = [there.pop(name) for name in variants if name in there]
    if there:
        say(f"{run}: left out is what its recipe no longer has: {', '.join(there)}")
    stale = [file.parent.name for file in found if not _is_current(run, file.parent.name)]
    if not (run / MANIFEST).is_file():
        left = f"; left out until then: {', '.join(stale)}" if stale else ""
        say(f"{run} is not finished: what its recipe has changed since may not be in its results; run it again{left}")
    elif stale:
        say(f"{run}: left out are results of an earlier recipe: {', '.join(stale)}; run it again")
    return [file for file in found if file.parent.name not in stale]


def _is_current(run: Path, name: str) -> bool:
    """Whether a variant's results are of the run's recipe: by its manifest, or else by what its last stages were made from."""
    if (run / MANIFEST).is_file():
        facts = read_json(run / MANIFEST)
        evaluated = f"{(facts.get('same_layers_as') or {}).get(name, name)}.evaluate"
        record = StageRecord.load(run / STAMPS / f"{evaluated}.json")
        return record is not None and (facts.get("stages") or {}).get(evaluated, {}).get("key") == record.key
    stages = ("plan", "slim", "prune", "train", "evaluate")
    plan, slim, prune, train, evaluate = (StageRecord.load(run / STAMPS / f"{name}.{stage}.json") for stage in stages)
    # A copy has none: of what it is one, the manifest says.
    if prune is None or evaluate is None:
        return False
    plans = {record.output_digest for record in (plan, slim) if record is not None}
    encoders = {prune.output_digest}
    if train is not None and train.inputs.get("checkpoint") in encoders:
        encoders.add(train.output_digest)
    if "encoder" in prune.inputs:  # Cut out of one that is trained at several depths.
        trained = map(StageRecord.load, (run / STAMPS).glob("*.train.json"))
        made_of = prune.inputs["encoder"] in {record.output_digest for record in trained if record is not None}
    else:
        made_of = prune.inputs.get("plan") in plans
    return made_of and evaluate.inputs.get("encoder") in encoders


def _is_run(folder: Path) -> bool:
    return (folder / RECIPE).is_file() and (folder / STAMPS).is_dir()


def _in_order(files: Mapping[str, Path], places: Sequence[Path]) -> tuple[Mapping[str, Path], SweepRecord | None]:
    """Return results of runs, or shards, of one sweep by variant and in its order, each once, and their record; others as they are."""
    runs = [file.absolute().parent.parent for file in files.values()]
    runs += [place.absolute() for place in places if (place / SWEEP).is_file()]
    found = {run: SweepRecord.load(run / SWEEP) for run in dict.fromkeys(runs) if (run / SWEEP).is_file()}
    cells = next((record.cells for record in found.values()), ())
    if not found or any(run not in found or found[run].cells != cells for run in runs):
        return files, None
    # Of a cell that failed there may be results of an earlier try.
    pairs = ((file.absolute().parent.name, file, run) for file, run in zip(files.values(), runs, strict=False))
    named = [(name, file) for name, file, run in pairs if name not in found[run].errors]
    first = dict(reversed(named))
    if len(first) < len(named) and not _are_shards(found):
        return files, None
    _say_what_differs(list(found))
    order = {cell.name: place for place, cell in enumerate(cells)}
    # Variants that are no cells, such as a teacher, come first, as in the run.
    names = sorted(dict.fromkeys(name for name, _ in named), key=lambda name: order.get(name, -1))
    errors = {name: reason for one in found.values() for name, reason in one.errors.items() if name not in first}
    return {name: first[name] for name in names}, SweepRecord(cells=cells, errors=errors)


def _say_what_differs(runs: Sequence[Path]) -> None:
    """Say in which sections the recipes of shards differ: one may have been forgotten when the recipe was edited."""
    recipes = {run: _without_places(read_yaml(run / RECIPE).values) for run in runs if (run / RECIPE).is_file()}
    first = next(iter(recipes), None)
    for run, recipe in recipes.items():
        if differ := [key for key, wanted in recipes[first or run].items() if recipe.get(key) != wanted]:
            say(f"{run} was run by another recipe than {first} ({', '.join(differ)}); run both by one")


def _without_places(value: Any) -> Any:
    """Return a recipe's value without absolute paths: where the model and the data are, each machine may have its own."""
    if isinstance(value, Mapping):
        return {key: _without_places(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_places(one) for one in value]
    return None if isinstance(value, str) and Path(value).is_absolute() else value


def _are_shards(runs: Collection[Path]) -> bool:
    """Whether runs are the shards of one, which share teachers at most; others that share a variant are to be compared."""
    counts = {run.name.partition("-of-")[2] for run in runs}
    return len(counts) == 1 and counts != {""} and len({run.name for run in runs}) == len(runs)


def losses(now: Mapping[str, Results], before: Mapping[str, Results], *, gate: Path, max_drop: float) -> tuple[str, ...]:
    """Return a line for each score that fell by more than ``max_drop``, beyond its interval.

    A score is lost where all of the interval of its difference lies below ``-max_drop``; where there is no interval, as
    the results hold no items or too few of them score differently, the difference itself decides. A result that is gone is lost too.

    Args:
        now: Results by name.
        before: Earlier ones by name; one alone is that of the one in ``now``, whatever they are called.
        gate: Where these are from.
        max_drop: In points of 100.

    Raises:
        EvaluationError: An earlier result is missing, or was not measured on the same thing.
    """
    alone = len(now) == len(before) == 1
    from prune2vec.experiments.intervals import gaps  # Here, as it takes numpy.

    lines = [] if alone else [f"{name} is missing now" for name in before if name not in now]
    for name, results in now.items():
        if not alone and name not in before:
            raise EvaluationError(
                f"{gate} holds no results of {name!r}, but of {', '.join(before)}; compare one results file with one, or a run with "
                "one whose variants have the same names"
            )
        earlier = next(iter(before.values())) if alone else before[name]
        if (why := next(reasons(results, earlier), None)) is not None:
            raise EvaluationError(
                f"{name} and {gate} are not comparable: {why}; evaluate on what the earlier results were measured on"
            )
        # The mean is that over the earlier tasks, whatever was measured beside them, or is now.
        before_tasks, there = replace(earlier, retrieval={}), {task.name for task in earlier.tasks}
        now_tasks = replace(results, retrieval={}, tasks=tuple(task for task in results.tasks if task.name in there))
        (found,), (own,) = gaps(before_tasks, [now_tasks]), gaps(replace(earlier, tasks=()), [replace(results, tasks=())])
        if len(there) == 1:
            del found[SCORE]
        others = "".join(f"; {key} is {its}, was {was}" for key, was, its in other_settings(earlier, results))
        for what, gap in (found | {what: gap for what, gap in own.items() if what == OWN_DATA}).items():
            if (gap.value if gap.high is None else gap.high) < -max_drop / 100:
                of = {OWN_DATA: "nDCG@10", SCORE: before_tasks.score_name}.get(what, what)
                within = f"95 % interval {gap.interval}, {gap.over}" if gap.interval else gap.verdict
                lines.append(
                    f"{name} lost {-100 * gap.value:.2f} points of {of}, more than {max_drop:g} ({gap.value:+.4f}; {within}{others})"
                )
    return tuple(lines)
