"""The paper's way gives the curve that the profile gives: two implementations that share no forward pass."""

from __future__ import annotations

from pathlib import Path

import paper_way
import pytest

from prune2vec.data.triplet import Triplet
from prune2vec.profiling.measure import profile_model
from tests.tiny import save_tiny

WORDS = ("quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "while", "12", "birds", "sing", "in", "morning")


def triplets(count: int) -> list[Triplet]:
    def text(seed: int) -> str:
        return " ".join(WORDS[(seed * step + step) % len(WORDS)] for step in range(1, 3 + seed % 11))

    return [Triplet(anchor=text(3 * n), positive=text(3 * n + 1), negatives=(text(3 * n + 2),)) for n in range(count)]


@pytest.mark.parametrize("bos", [False, True])
def test_same_curve_as_the_profile(tmp_path: Path, bos: bool) -> None:
    folder = save_tiny(tmp_path / "m", bos=bos)
    rows = triplets(2 * paper_way.BATCH)
    model, tokenizer = paper_way.load(str(folder))
    # Where a text is cut and there is a BOS, that way pools the BOS too: nothing is cut here.
    theirs = paper_way.layer_losses(model, tokenizer, rows, max_length=64)
    ours = profile_model(
        str(folder), rows, groups=2, sampling="file", max_length=64, dtype="float32", device="cpu", pooling="weightedmean-paper"
    )
    assert theirs == pytest.approx(list(ours.layer_loss.loss), abs=1e-4)
    assert len(set(theirs)) == len(theirs) == 5


def test_only_whole_tuples_are_asked_for(tmp_path: Path) -> None:
    model, tokenizer = paper_way.load(str(save_tiny(tmp_path / "m")))
    with pytest.raises(IndexError):
        paper_way.layer_losses(model, tokenizer, [Triplet(anchor="a", positive="b")])
