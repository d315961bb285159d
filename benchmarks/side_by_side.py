"""Cells of a recipe done several at once on one machine, each in a folder of its own, and compared at the end.

A small model leaves most of a GPU idle, so several share it. The first cell measures the profile for all; a cell that learns from another
one, or is trained with it, begins when that one is done. Killed, the same call resumes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prune2vec.experiments.compare import compare_results
from prune2vec.experiments.comparison import Comparison
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.run import recipe_of
from prune2vec.experiments.stage_runner import PROFILE, RECIPE, RESULTS, STAMPS
from prune2vec.experiments.trained_together import with_partners
from prune2vec.files import read_json, write_json, write_text
from prune2vec.outputs import RECORD


def run_side_by_side(recipe: Mapping[str, Any], work: Path, jobs: int) -> Comparison:
    """Do every cell of a recipe, and return the comparison of those that did not fail, whose report is in ``work/comparison``."""
    given = recipe_of(recipe)
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / RECIPE, given.to_yaml())
    chosen = given.swept().taught()
    alone = [variant for variant in chosen.variants if variant.trained_with is None]
    # By seed, so that what one tells is there first; what is not trained before all.
    behind = sorted(alone[1:], key=lambda variant: (training := variant.training(chosen.train)) is not None and training.seed)
    names = [variant.name for variant in (alone[0], *behind)]
    first, *others = names
    _run(work, first)
    done: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for name in others:
            done[name] = pool.submit(_after, chosen, work, name, first, done)
    for name, future in done.items():
        if (error := future.exception()) is not None:
            print(f"{name}: {error}", file=sys.stderr)
    folders = [work / name for name in names if list((work / name).glob(f"*/{RESULTS}"))]
    return compare_results(folders, output=work / "comparison")


def _after(recipe: Recipe, work: Path, name: str, first: str, done: Mapping[str, Future[None]]) -> None:
    """Do a cell in a folder that begins as a copy of what it needs: the profile, and the cells that it learns from."""
    needed = [one.name for one in with_partners(recipe, [name]) if one.name != name and one.trained_with is None]
    for other in needed:
        if other != first:
            done[other].result()
    folder = work / name
    if not (folder / PROFILE).exists():
        (folder / STAMPS).mkdir(parents=True, exist_ok=True)
        files = {PROFILE: read_json(work / first / RECORD)["files"][PROFILE]}
        for other in needed:
            # Weights are not copied, but named once more.
            shutil.copytree(work / other / other, folder / other, copy_function=os.link, dirs_exist_ok=True)
            files |= {
                key: value for key, value in read_json(work / other / RECORD)["files"].items() if key.startswith(f"{other}/")
            }
            for stamp in (work / other / STAMPS).glob(f"{other}.*"):
                shutil.copy(stamp, folder / STAMPS)
        write_json(folder / RECORD, {**read_json(work / first / RECORD), "files": files})
        shutil.copy(work / first / STAMPS / "profile.json", folder / STAMPS)
        shutil.copy(work / first / PROFILE, folder / PROFILE)
    _run(work, name)


def _run(work: Path, name: str) -> None:
    begin, log = time.perf_counter(), work / f"{name}.log"
    with log.open("a", encoding="utf-8") as stream:
        command = [sys.executable, "-m", "prune2vec", "run", work / RECIPE, "-o", work / name, "--cell", name]
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"ended with {code}; {log} says why")
    print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
