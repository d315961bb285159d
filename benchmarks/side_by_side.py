"""A recipe's variants done several at once on one machine, as shards of a run, and compared.

A small model leaves most of a GPU idle, so several share it. Killed, the same call resumes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune2vec.experiments.compare import compare_results
from prune2vec.experiments.comparison import Comparison
from prune2vec.experiments.run import recipe_of
from prune2vec.experiments.stage_runner import RECIPE, RESULTS
from prune2vec.files import write_text


def run_side_by_side(
    recipe: Mapping[str, Any], work: Path, jobs: int, *, start: bool = True
) -> tuple[Comparison, dict[str, Path]]:
    """Do every variant of a recipe, in ``jobs`` processes, or with ``start`` false take those that are done by then.

    Returns:
        The comparison of those that did not fail, in the recipe's order, whose report is in ``work/comparison``; and the folder of
        each by name.
    """
    given = recipe_of(recipe)
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / RECIPE, given.to_yaml())
    run = [sys.executable, "-m", "prune2vec", "run", str(work / RECIPE), "-o", str(work)]
    shards = [subprocess.Popen([*run, "--shard", f"{number}/{jobs}"]) for number in range(jobs if start else 0)]
    # A cell that fails stops no others, and is in none of the results.
    codes = [shard.wait() for shard in shards]
    print(f"shards ended with {codes}", file=sys.stderr)
    found = {file.parent.name: file.parent for file in work.glob(f"shard-*-of-{jobs:05d}/*/{RESULTS}")}
    folders = {one.name: found[one.name] for one in given.swept().variants if one.name in found}
    return compare_results([folder / RESULTS for folder in folders.values()], output=work / "comparison"), folders
