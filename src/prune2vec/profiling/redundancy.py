"""EffiR's and LLM-Drop's importance of sub-layers (arXiv 2512.20612, 2406.15786): 1 - cos(x_in, x_out) on the residual stream."""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedTokenizerBase

from prune2vec.data.folders import visible_files
from prune2vec.data.rows import read_jsonl, read_lines, sound_text
from prune2vec.errors import DataError, ProfileError, nan_remedy
from prune2vec.files import digest_json
from prune2vec.forward.backbone import Backbone
from prune2vec.forward.batches import Batch
from prune2vec.models.families import watch_block
from prune2vec.models.kept import KINDS, Kept
from prune2vec.models.tokens import TokenRow, token_ids
from prune2vec.profiling.measure import Measured, Measurement, scorers
from prune2vec.profiling.profile import Redundancy, most_redundant_first
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.token_groups import TokenGroup, distinct_rows
from prune2vec.progress import say

_PROSE, _ROWS = (".txt", ".md"), (".jsonl",)
_AT_ONCE = 1000


@scorers.register("redundancy")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """Importance of every attention, MLP and block on the retrieval texts (EffiR)."""
    (found,) = yield [SublayerImportance(backbone, distinct_rows(groups))]
    return asdict(found)


@scorers.register("redundancy-plain")
def score_plain(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """Importance of every attention, MLP and block on windows of plain text, C4 in the papers (LLM-Drop)."""
    assert settings.plain is not None, "the settings ask for it"
    windows = plain_windows(
        settings.plain,
        backbone.tokenizer,
        count=settings.windows,
        length=settings.window_length,
        context=backbone.max_length,
        seed=settings.seed,
    )
    (found,) = yield [SublayerImportance(backbone, windows, texts="plain")]
    digest = digest_json([row.ids for row in windows])
    return {**asdict(found), "windows": len(windows), "window_length": len(windows[0].ids), "digest": digest}


@scorers.register("redundancy-iterative")
def score_iterative(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """Order of dropping when every attention, MLP or block that goes is followed by a new measurement (LLM-Drop's script)."""
    layers = backbone.shape.num_layers
    rounds, rows = settings.rounds_of(layers), distinct_rows(groups)
    gone: dict[str, list[int]] = {kind: [] for kind in KINDS}
    kept = dict.fromkeys(KINDS, Kept.whole(range(layers)))
    # The first measurement, of the whole model, serves all three kinds, whose rounds run side by side after it.
    whole = SublayerImportance(backbone, rows)
    whole.later = len(KINDS) * max(0, rounds - 1) * whole.tokens
    found: Sequence[Redundancy] = list((yield [whole])) * len(KINDS)
    for number in range(rounds):
        if number:
            kept = {
                "attention": Kept.of(range(layers), drop_attention=gone["attention"]),
                "mlp": Kept.of(range(layers), drop_mlp=gone["mlp"]),
                "block": Kept.of(set(range(layers)) - set(gone["block"])),
            }
            found = yield [SublayerImportance(backbone, rows, kept=kept[kind]) for kind in KINDS]
        for kind, importance in zip(KINDS, found, strict=True):
            # The rows of a measurement follow the layers that its cut keeps.
            left = dict(zip(kept[kind].layers, importance.row(kind), strict=True))
            stays = {0} if kind == "block" and backbone.shape.first_stays else set()
            gone[kind].append(
                most_redundant_first({layer: left[layer] for layer in left if layer not in {*gone[kind], *stays}})[0]
            )
    return gone


class SublayerImportance(Measurement):
    """The importance of every sub-layer, as the mean over all tokens of the rows, on the model or a cut of it.

    Tokens of instructions count, padding does not. A sub-layer that a cut has taken out comes out as 0.

    Raises:
        UnsupportedModel: The parts of the model's blocks are not known.
    """

    def __init__(
        self, backbone: Backbone, rows: Sequence[TokenRow], *, texts: str = "retrieval", kept: Kept | None = None
    ) -> None:
        self.rows = tuple(rows)
        self.key = ("redundancy", texts)
        self.kept = kept
        self._parts, self._texts = backbone.sub_layers, texts
        self._dtype = str(backbone.model.dtype).removeprefix("torch.")
        self._totals: dict[int, dict[str, float]] = {}
        self._sums: dict[tuple[int, str], Tensor] = {}
        self._units: deque[tuple[Tensor, Tensor]] = deque(maxlen=3)

    def begin(self, batch: Batch) -> None:
        """Note which tokens are real."""
        self._filling = ~batch.real

    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Watch the stream before and after every sub-layer of a block."""
        return watch_block(layer, block, self._parts, self._see)

    def _see(self, layer: int, kind: str, before: Tensor, after: Tensor) -> None:
        # Half the squared distance of the unit vectors is 1 - cos, without the cancellation where the two hardly differ.
        between = self._unit(before) - self._unit(after)
        changes = torch.linalg.vector_norm(between, dim=-1).square_() / 2
        self._sums[layer, kind] = changes.masked_fill_(self._filling, 0).sum()

    def _unit(self, states: Tensor) -> Tensor:
        """Return the states scaled to unit length in fp32; each of a block's three is asked for twice, and one by the next."""
        found = next((unit for known, unit in self._units if known is states), None)
        if found is None:
            found = normalize(states.float(), dim=-1)
            self._units.append((states, found))
        return found

    def end(self) -> None:
        """Add up the batch; a state that is NaN or infinite is a ``ProfileError``."""
        sums, self._sums = self._sums, {}
        self._units.clear()
        values = torch.stack(list(sums.values())).cpu().double() if sums else torch.zeros(0)
        if not torch.isfinite(values).all():
            layer, kind = list(sums)[int((~torch.isfinite(values)).nonzero()[0])]
            what = "" if kind == "block" else f" after the {kind}"
            raise ProfileError(f"NaN or infinity at layer {layer}{what} in {self._dtype}; {nan_remedy(self._dtype)}")
        for (layer, kind), value in zip(sums, values.tolist(), strict=True):
            of_layer = self._totals.setdefault(layer, dict.fromkeys(KINDS, 0.0))
            of_layer[kind] += value

    def result(self) -> Redundancy:
        """Return the means."""
        means = {kind: tuple(self._totals[layer][kind] / self.tokens for layer in sorted(self._totals)) for kind in KINDS}
        return Redundancy(**means, tokens=self.tokens, texts=self._texts)


def plain_windows(
    source: Path, tokenizer: PreTrainedTokenizerBase, *, count: int, length: int, context: int, seed: int
) -> list[TokenRow]:
    """Return windows of plain text: documents end to end, an end-of-text token between them, no other special tokens.

    Args:
        source: A .txt or .md file (one document), a .jsonl file with a document a line in ``text``, or a folder of these,
            in the order of their paths; .gz may follow.
        tokenizer: The model's.
        count: Windows wanted; where there are more, so many are drawn, in the order of the text.
        length: Tokens in each.
        context: Most tokens that the model has positions for.
        seed: Seed of the draw.

    Raises:
        DataError: The source cannot be read or does not fill one window.
    """
    if length > context:
        say(f"windows have {context} tokens instead of {length}: the model has no positions beyond")
        length = context
    # Four bytes a token: a list would take nine times that.
    stream = array("i")
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    documents = _documents(source)
    while texts := list(islice(documents, _AT_ONCE)):
        for ids in token_ids(tokenizer, texts, special=False):
            stream.extend(end if stream else [])
            stream.extend(ids)
    there = len(stream) // length
    if not there:
        raise DataError(f"{source} has {len(stream)} tokens, less than one window of {length}; give more plain text")
    if there < count:
        say(f"{source} fills {there} windows of {length} tokens instead of {count}")
    chosen = sorted(random.Random(seed).sample(range(there), min(count, there)))
    return [TokenRow(tuple(stream[length * window : length * (window + 1)]), start=0) for window in chosen]


def _documents(source: Path) -> Iterator[str]:
    """Yield the documents that hold more than blanks."""
    kinds = (*_PROSE, *_ROWS)
    paths = [path for path in (visible_files(source) if source.is_dir() else [source]) if _suffix(path) in kinds]
    if not paths:
        raise DataError(f"{source}: no plain text; expected {', '.join(kinds)} files (perhaps .gz), or a folder of them")
    for path in paths:
        if _suffix(path) in _ROWS:
            yield from filter(str.strip, (sound_text(row, "text", row.values.get("text")) for row in read_jsonl(path)))
        elif (text := "".join(line for _, line in read_lines(path))).strip():
            yield text


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix
