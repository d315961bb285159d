"""The main job: a recipe in, profile, plans, encoders, results and a report out; resumable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune2vec.evaluation.results import Results
from prune2vec.evaluation.tasks import resolve_tasks
from prune2vec.experiments.answers import Answer, load_answers
from prune2vec.experiments.comparison import Comparison, ResultRow, comparison_of
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.report import ReportData
from prune2vec.experiments.run_folder import ANSWERS, MANIFEST, PROFILE, RECIPE, REPORT, RESULTS, STAMPS
from prune2vec.experiments.run_manifest import manifest
from prune2vec.experiments.stage_runner import Step
from prune2vec.experiments.stages import Stages, real_stages
from prune2vec.experiments.variant_run import VariantRun
from prune2vec.files import write_json
from prune2vec.outputs import RUN, check_kind, clear_all_partials, own_folder
from prune2vec.profiling.profile import Profile
from prune2vec.public import public
from prune2vec.training.train_settings import check_tracker


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did.

    Attributes:
        folder: Folder of the run.
        steps: Its stages, in order.
        comparison: The results side by side; None when nothing was evaluated, or in a dry run.
        answers: The recipe's example queries with what the smallest encoder found.
        dry_run: Whether nothing was done.
    """

    folder: Path
    steps: tuple[Step, ...]
    comparison: Comparison | None = None
    answers: tuple[Answer, ...] = ()
    dry_run: bool = False

    def render(self) -> str:
        """Return the report as plain text."""
        if self.dry_run:
            return "\n".join(step.render() for step in self.steps)
        parts = [self.comparison.render() if self.comparison is not None else ""]
        parts += [one.render() for one in self.answers]
        parts.append(f"report: {self.folder / 'report.html'}")
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "output": str(self.folder),
            "dry_run": self.dry_run,
            "steps": [asdict(step) for step in self.steps],
            "comparison": self.comparison.to_json() if self.comparison is not None else None,
            "answers": [asdict(one) for one in self.answers],
            "report": None if self.dry_run else str(self.folder / "report.html"),
        }


@public("run", "recipe", "output")
def run_recipe(
    recipe: Recipe | Path | str | Mapping[str, Any],
    output: Path | str,
    *,
    stages: Stages | None = None,
    dry_run: bool = False,
) -> Report:
    """Profile, plan, prune, train and evaluate every variant of a recipe, then compare them.

    A stage is skipped when its output is there and its settings and inputs have not changed, so a run that was killed goes
    on with the same call and ends with the same result.

    Args:
        recipe: A recipe, its YAML file, or a mapping with its keys.
        output: Folder of the run: new, empty or of an earlier run.
        stages: What does the work; default: the functions of this package.
        dry_run: Only find out which stages would run and which would be skipped; writes nothing.

    Raises:
        ConfigError: The recipe is wrong, or another run holds the folder.
        CheckpointError: The folder holds something else, or a file of the run was changed since.
        Prune2vecError: A stage failed; all stages before it stay done.
    """
    folder = Path(output).absolute()
    read, stages = _read(recipe), stages or real_stages()
    _check_late_stages(read)
    if dry_run:
        check_kind(folder, RUN)
        job = VariantRun(read, folder, stages, None)
        job.do()
        return Report(folder=folder, steps=tuple(job.ledger.steps), dry_run=True)
    with own_folder(folder, RUN) as own:
        clear_all_partials(folder)
        own.check(RECIPE, *REPORT)
        job = VariantRun(read, folder, stages, own)
        try:
            job.do()
        except BaseException as error:
            if (folder / STAMPS).exists():
                error.add_note(f"{folder} keeps the stages that are done, after which the same command goes on")
            else:
                own.remove(RECIPE)
            raise
        with own.writing(RECIPE, *REPORT):
            return _finish(job)


def _read(recipe: Recipe | Path | str | Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.of(recipe) if isinstance(recipe, Mapping) else Recipe.load(Path(recipe))


def _check_late_stages(recipe: Recipe) -> None:
    """Refuse at once what training and evaluation would refuse after hours of the stages before them."""
    if recipe.train is not None:
        check_tracker(recipe.train.report_to)
    if recipe.evaluate is not None and recipe.evaluate.tasks:
        resolve_tasks(recipe.evaluate.tasks, Path(recipe.evaluate.mirror) if recipe.evaluate.mirror else None)


def _finish(job: VariantRun) -> Report:
    """Write the manifest and the report; quick, so done anew every time."""
    folder, profile = job.folder, Profile.load(job.folder / PROFILE)
    comparison = _compare(job)
    answers = tuple(load_answers(folder / ANSWERS)) if "answer" in job.ledger.stamps else ()
    facts = manifest(job, profile)
    story = ReportData(
        profile=profile,
        plans=job.plans,
        twins=job.twins,
        comparison=comparison,
        answers=answers,
        answered_by=job.smallest() or "",
        curves={name: job.encoder_folder(name) / "train.jsonl" for name in job.plans if name not in job.twins},
        manifest=facts,
        recipe=job.recipe.to_yaml(),
    )
    job.write_recipe()
    write_json(folder / MANIFEST, facts)
    job.stages.report(story, folder)
    return Report(folder=folder, steps=tuple(job.ledger.steps), comparison=comparison, answers=answers)


def _compare(job: VariantRun) -> Comparison | None:
    if job.recipe.evaluate is None:
        return None
    rows = [
        ResultRow(name=name, results=Results.load(job.folder / name / RESULTS), plan=plan, same_as=job.twins.get(name))
        for name, plan in job.plans.items()
    ]
    return comparison_of(rows)
