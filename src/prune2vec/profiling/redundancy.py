"""EffiR's and LLM-Drop's importance of sub-layers (arXiv 2512.20612, 2406.15786): 1 - cos(x_in, x_out) on the residual stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from prune2vec.errors import ProfileError
from prune2vec.forward.backbone import Backbone
from prune2vec.forward.batches import Batch
from prune2vec.forward.runner import Advance
from prune2vec.models.kept import KINDS
from prune2vec.models.sublayer_states import watch_block
from prune2vec.models.sublayers import SubLayers
from prune2vec.models.tokens import TokenRow
from prune2vec.profiling.importance import Redundancy
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.scorer import Measurement, Request, Steps, Work, scorers
from prune2vec.profiling.together import measure_alone
from prune2vec.profiling.token_groups import TokenGroup, distinct_rows


@scorers.register("redundancy")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Importance of every attention, MLP and block on the retrieval texts (EffiR)."""
    parts = backbone.sub_layers()

    def start() -> Steps:
        (found,) = yield [Request(SublayerImportance(backbone, parts, distinct_rows(groups)))]
        section: dict[str, object] = found.to_json()
        return section

    return Work(start)


class SublayerImportance(Measurement):
    """The importance of every sub-layer, as the mean over all tokens of the rows.

    Tokens of instructions count, padding does not. A sub-layer that a cut has taken out comes out as 0.

    Args:
        backbone: The model.
        parts: The parts of its blocks.
        rows: Tokenised texts.
        texts: What they are, for the record.
    """

    def __init__(self, backbone: Backbone, parts: SubLayers, rows: Sequence[TokenRow], *, texts: str = "retrieval") -> None:
        self.rows = tuple(rows)
        self.key = ("redundancy", parts, texts)
        self._parts, self._texts = parts, texts
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
        """Add up the batch.

        Raises:
            ProfileError: A state is NaN or infinite.
        """
        sums, self._sums = self._sums, {}
        self._units.clear()
        values = torch.stack(list(sums.values())).double().cpu() if sums else torch.zeros(0)
        if not torch.isfinite(values).all():
            layer, kind = list(sums)[int((~torch.isfinite(values)).nonzero()[0])]
            what = "" if kind == "block" else f" after the {kind}"
            raise ProfileError(
                f"NaN or infinity at layer {layer}{what} in {self._dtype}; use --dtype float32, or check the weights"
            )
        for (layer, kind), value in zip(sums, values.tolist(), strict=True):
            of_layer = self._totals.setdefault(layer, dict.fromkeys(KINDS, 0.0))
            of_layer[kind] += value

    def result(self) -> Redundancy:
        """Return the means."""
        tokens = sum(len(row.ids) for row in self.rows)
        rows = {kind: tuple(self._totals[layer][kind] / tokens for layer in sorted(self._totals)) for kind in KINDS}
        return Redundancy(**rows, tokens=tokens, texts=self._texts)


def redundancy(
    backbone: Backbone,
    parts: SubLayers,
    rows: Sequence[TokenRow],
    *,
    texts: str = "retrieval",
    token_budget: int | None = None,
    advance: Advance = lambda amount: None,
) -> Redundancy:
    """Return the importance of every sub-layer in one forward pass a row; see ``SublayerImportance``.

    Args:
        backbone: The model.
        parts: The parts of its blocks.
        rows: Tokenised texts.
        texts: What they are, for the record.
        token_budget: Tokens of one forward pass at most, padding included; None takes what suits the device.
        advance: Called with the number of tokens done.

    Raises:
        ProfileError: A state is NaN or infinite.
    """
    changes = SublayerImportance(backbone, parts, rows, texts=texts)
    found: Redundancy = measure_alone(backbone, changes, token_budget=token_budget, advance=advance)
    return found
