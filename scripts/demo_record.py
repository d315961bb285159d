"""The figures of README's demo block, taken from the files of a run of the demo.

    python scripts/demo_record.py runs/demo                 # after make demo
    python scripts/demo_record.py runs/demo --seconds 1080  # what make demo took in a fresh clone, installation included

Writes benchmarks/results/demo.json; ``make docs`` renders the block from it, and ``make check`` fails when they differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune2vec.evaluation.results import Results
from prune2vec.experiments.comparison import ResultRow, TextTable, comparison_of
from prune2vec.files import read_json, write_json
from prune2vec.planning.plan import PruningPlan

RECORD = Path(__file__).parent.parent / "benchmarks" / "results" / "demo.json"
_SHOWN = ("torch", "transformers")
_PAPER = "the paper trains 1,000 steps of 64"


def record_of(run: Path, seconds: float | None = None) -> dict[str, Any]:
    """Return the figures of a finished run.

    Args:
        run: Its folder.
        seconds: What ``make demo`` took in a fresh clone; None takes the sum of the run's stages, without the installation.
    """
    manifest = read_json(run / "manifest.json")
    recipe, environment = manifest["recipe"], manifest["environment"]
    rows = [
        ResultRow(
            name=name,
            results=Results.load(run / name / "results.json"),
            plan=PruningPlan.load(run / name / "plan.json"),
            same_as=manifest["same_layers_as"].get(name),
        )
        for name in manifest["plans"]
    ]
    comparison = comparison_of(rows)
    bm25 = comparison.bm25.get("ndcg@10", 0.0)
    table = comparison.summary()
    return {
        "steps": recipe["train"]["steps"],
        "batch_size": recipe["train"]["batch_size"],
        "tuples": recipe["profile"]["groups"] * recipe["profile"]["group_size"],
        "queries": len(recipe["queries"]),
        "seconds": round(manifest["seconds"] if seconds is None else seconds),
        "with_installation": seconds is not None,
        "memory_bytes": max(int(row.results.memory["process"] or 0) for row in rows),
        "cpu": environment["cpu"],
        "cpu_fast_bf16": environment["cpu_fast_bf16"],
        "threads": environment["threads"],
        "versions": {name: environment["versions"][name] for name in _SHOWN if name in environment["versions"]},
        "below_bm25": [row.name for row in rows if (row.score or 0.0) < bm25],
        "variants": [row.name for row in rows],
        "table": {"header": table.header, "rows": table.rows},
    }


def block(record: Mapping[str, Any]) -> str:
    """Return what stands in README between the demo comments."""
    table = TextTable(tuple(record["table"]["header"]), tuple(tuple(row) for row in record["table"]["rows"]))
    installed = "installation included" if record["with_installation"] else "after the installation"
    units = "" if record["cpu_fast_bf16"] else " without bf16 matrix units"
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    memory = f"{record['memory_bytes'] / 1e9:.1f} GB of memory"
    return f"""The demo mines docstrings of the installed packages, profiles the model on {record["tuples"]} tuples, trains the whole model
(full), its first half and L3Prune's two cuts (large, small) in one run of {record["steps"]} steps ([train once, cut
anywhere](docs/elastic.md)), evaluates them on packages that were not trained on, and answers {record["queries"]} questions with small.
`make demo` took {record["seconds"] / 60:.0f} minutes, {installed}, and {memory} on {record["threads"]} cores
({record["cpu"]}){units} ({versions}); the mined texts, and so the scores, depend on what is installed. It printed:

{table.to_markdown()}

{record["steps"]} steps of {record["batch_size"]} tuples show the chain, not the method: {_PAPER}{_against_bm25(record)}.
"""


def _against_bm25(record: Mapping[str, Any]) -> str:
    below = record["below_bm25"]
    if not below:
        return ""
    return f", and BM25 is ahead of {'all of them' if below == record['variants'] else ', '.join(below)} here"


def main(arguments: Sequence[str] | None = None, *, record: Path = RECORD) -> int:
    """Write the record of a run and return the exit code."""
    parser = argparse.ArgumentParser(description="Write the figures of README's demo block from a run's files.")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--seconds", type=float, help="what make demo took in a fresh clone, installation included")
    options = parser.parse_args(arguments)
    write_json(record, record_of(options.run, options.seconds))
    print(f"wrote {record}; now: make docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
