"""Finding results: files, folders of one encoder, folders of a whole run; and giving each a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prune2vec.errors import DataError
from prune2vec.experiments.run_folder import RESULTS


def find_results(paths: Sequence[Path]) -> dict[str, Path]:
    """Return a short, distinct name for each results file that ``paths`` lead to, in their order.

    A path may be a results file, a folder that holds ``results.json``, or a folder whose folders do (a run).

    Raises:
        DataError: A path does not exist or leads to no results.
    """
    files: list[Path] = []
    for path in paths:
        files += [file for file in _files_at(path) if file not in files]
    if not files:
        raise DataError("nothing to compare; give results.json files, or folders that hold them")
    return dict(zip(_names(files), files, strict=True))


def _files_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / RESULTS).is_file():
        return [path / RESULTS]
    found = sorted(path.glob(f"*/{RESULTS}")) if path.is_dir() else []
    if not found:
        reason = f"holds no {RESULTS}, nor do its folders" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {reason}; make one with prune2vec evaluate -o {RESULTS}")
    return found


def _names(files: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell the files apart."""
    whole = [file.absolute().parent.parts if file.name == RESULTS else file.absolute().with_suffix("").parts for file in files]
    lengths = [1] * len(whole)
    while True:
        names = ["/".join(parts[-length:]) for parts, length in zip(whole, lengths, strict=True)]
        twice = [
            names.count(name) > 1 and length < len(parts) for name, parts, length in zip(names, whole, lengths, strict=True)
        ]
        if not any(twice):
            return names
        lengths = [length + one for length, one in zip(lengths, twice, strict=True)]
