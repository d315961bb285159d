"""Through how many functions and files one text passes on its way to a result, verb by verb.

    python scripts/way_of_a_text.py            # the table
    python scripts/way_of_a_text.py profile    # and every function of one verb, in the order of its first call

Each verb's public function is called once on a tiny random model with eight rows of text. What counts is every function of
prune2vec that is entered in between, comprehensions and lambdas as part of the function around them; what runs while modules are
imported does not count.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
PACKAGE = str(ROOT / "src" / "prune2vec")

Way = dict[tuple[str, str], None]


def traced(call: Callable[[], object]) -> Way:
    """Return (file, function) of everything in the package that is entered while ``call`` runs, in order."""
    way: Way = {}
    importing = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal importing
        code = frame.f_code
        if code.co_name == "<module>":
            importing += {"call": 1, "return": -1}.get(event, 0)
        if event == "call" and not importing and code.co_filename.startswith(PACKAGE):
            name = code.co_qualname.replace(".<locals>", "").partition(".<")[0]
            way.setdefault((code.co_filename.removeprefix(PACKAGE + "/"), name))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return way


def ways() -> dict[str, Way]:
    """Return the way of every verb, run one after the other in a folder of its own."""
    import prune2vec
    from tests.tiny import save_tiny

    words = ["fox", "layer", "model", "token", "birds", "rows", "reader", "spring"]
    rows = [{"query": f"{a} {n}", "positive": f"{a} of {n}", "negative": f"no {a}"} for n, a in enumerate(words)]
    Path("texts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    Path("corpus.jsonl").write_text(
        "\n".join(json.dumps({"id": str(n), "text": a}) for n, a in enumerate(words)), encoding="utf-8"
    )
    model = str(save_tiny(Path("model"), "llama"))
    few = {"groups": 1, "group_size": 8, "max_length": 32, "dtype": "float32"}
    training = {"steps": 1, "batch_size": 4, "max_length": 32, "dtype": "float32"}
    return {
        "profile": traced(lambda: prune2vec.profile(model, "texts.jsonl", output="profile.json", settings=few)),
        "plan": traced(lambda: prune2vec.plan("profile.json", method="depth", depth=2, output="plan.json")),
        "prune": traced(lambda: prune2vec.prune(model, "plan.json", "small")),
        "train": traced(lambda: prune2vec.train("small", "texts.jsonl", "encoder", settings=training)),
        "encode": traced(lambda: prune2vec.encode("encoder", "corpus.jsonl", "vectors")),
        "evaluate": traced(lambda: prune2vec.evaluate("encoder", data="texts.jsonl")),
    }


def main() -> None:
    """Print the table, and the way of the verb that is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = ways()
        os.chdir(ROOT)
    for verb in sys.argv[1:]:
        for file, name in found[verb]:
            print(f"{file}: {name}")
    print(f"{'verb':<10}{'functions':>10}{'files':>7}")
    for verb, way in found.items():
        print(f"{verb:<10}{len(way):>10}{len({file for file, _ in way}):>7}")


if __name__ == "__main__":
    main()
