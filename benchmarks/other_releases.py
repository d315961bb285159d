"""Do encoders written here give the same vectors in another release of sentence-transformers? One file, two environments.

Those whose blocks are not all alike must be refused there, by AutoModel, instead of being filled with random numbers.

python benchmarks/other_releases.py make encoders/            # here: tiny families x 3 poolings and 3 uneven cuts
other/bin/python benchmarks/other_releases.py check encoders/ # there: only sentence-transformers is needed
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import transformers

TEXTS = [
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "in  2024,   365 days; 12  34",
    "def add(a, b):\n    return a + b",
    "naïve café, Zürich — ¿qué?",
    "One long passage, longer than any encoder reads. " * 120,
]

UNEVEN: dict[str, dict[str, Any]] = {
    "mlp": {"drop_mlp": [1]},
    "attention": {"drop_attention": [3]},
    "widths": {"neurons": {0: range(20), 2: range(5, 30)}},
}


def encode(folder: Path) -> np.ndarray:
    """Return the vectors of the texts in fp32 (the tiny encoders are stored so)."""
    return np.asarray(sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, batch_size=3))


def make(root: Path) -> None:
    """Write the encoders and their vectors."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from prune2vec.pruning.prune import prune_model
    from tests.pruning.plans import plan_for
    from tests.tiny import DECODERS, save_tiny

    for family in DECODERS:
        model = save_tiny(root / "models" / family, family)
        plan = plan_for(model, [0, 2, 3])
        for pooling in ("weightedmean", "mean", "lasttoken"):
            out = prune_model(str(model), plan, root / f"{family}-{pooling}", max_length=128, pooling=pooling)
            np.save(root / f"{out.name}.npy", encode(out))
        for name, cut in UNEVEN.items():
            uneven = plan_for(model, range(5), **cut)
            prune_model(str(model), uneven, root / "uneven" / f"{family}-{name}", max_length=128)


def check(root: Path) -> None:
    """Encode again and print the largest differences."""
    files = sorted(root.glob("*.npy"))
    differences = {file.stem: float(np.abs(np.load(file) - encode(root / file.stem)).max()) for file in files}
    for name, difference in sorted(differences.items(), key=lambda item: -item[1])[:5]:
        print(f"{name:<28} {difference:.1e}")
    versions = f"sentence-transformers {sentence_transformers.__version__}, transformers {transformers.__version__}"
    print(f"{len(differences)} encoders, largest difference {max(differences.values()):.1e}, {versions}")
    folders = sorted((root / "uneven").iterdir())
    loaded = [folder.name for folder in folders if not refused(folder)]
    print(
        f"{len(folders) - len(loaded)} of {len(folders)} uneven folders are refused by AutoModel; loaded: {', '.join(loaded) or 'none'}"
    )


def refused(folder: Path) -> bool:
    """Return whether stock transformers raises on a folder."""
    try:
        transformers.AutoModel.from_pretrained(str(folder))
    except Exception:
        return True
    return False


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
