"""What a set of triplets holds: rows, duplicates, empties, lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prune2vec.data.triplet import Skipped, Triplet
from prune2vec.errors import shown

_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the texts of one kind are; ``texts`` is their number, the rest in the summary's unit."""

    texts: int
    median: int
    p95: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts over a set of triplets.

    Attributes:
        rows: Triplets with all their texts.
        duplicates: Triplets whose anchor and positive have occurred before.
        empties: Rows in which a text is empty, those that the reader passed over included.
        datasets: Rows of each data set.
        unit: What lengths are counted in: ``"tokens"`` or ``"characters"``.
        lengths: Lengths of ``anchor``, ``positive`` and ``negative`` texts.
        limit: The model's context in the same unit, or None.
        truncated: Texts longer than the limit, which a model sees cut.
    """

    rows: int
    duplicates: int
    empties: int
    datasets: dict[str, int]
    unit: str
    lengths: dict[str, Lengths]
    limit: int | None = None
    truncated: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def render(self) -> str:
        """Return the summary as a short table."""
        lines = [f"{self.rows:,} rows, {self.duplicates:,} duplicates, {self.empties:,} with an empty text"]
        lines.append(f"{self.unit:<12}{'texts':>12}{'median':>10}{'95 %':>10}{'longest':>10}")
        for part, row in self.lengths.items():
            lines.append(f"{part:<12}{row.texts:>12,}{row.median:>10,}{row.p95:>10,}{row.longest:>10,}")
        if self.limit is not None:
            lines.append(f"{self.truncated:,} texts are longer than {self.limit:,} {self.unit} and are cut there")
        largest = sorted(self.datasets.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"{shown(name) or '(no name)':<28}{count:>10,}" for name, count in largest[:_SHOWN]]
        if len(largest) > _SHOWN:
            rest = largest[_SHOWN:]
            lines.append(f"{f'{len(rest)} more data sets':<28}{sum(count for _, count in rest):>10,}")
        return "\n".join(lines)


def summarise(
    triplets: Iterable[Triplet],
    *,
    count_tokens: Callable[[str], int] | None = None,
    limit: int | None = None,
    skipped: Skipped | None = None,
) -> Summary:
    """Count rows, duplicates, empties and lengths.

    Args:
        triplets: The rows; read once.
        count_tokens: Number of tokens of a text; characters are counted without it.
        limit: The model's context; longer texts are counted as truncated.
        skipped: What the reader passed over, added to the empties.
    """
    measure = count_tokens or len
    seen: set[int] = set()
    datasets: Counter[str] = Counter()
    lengths: dict[str, list[int]] = {"anchor": [], "positive": [], "negative": []}
    rows = duplicates = 0
    empties = skipped.empties if skipped is not None else 0
    for triplet in triplets:
        if not all(text.strip() for text in triplet.texts):
            empties += 1
            continue
        rows += 1
        datasets[triplet.dataset] += 1
        key = hash((triplet.anchor, triplet.positive))
        duplicates += key in seen
        seen.add(key)
        lengths["anchor"].append(measure(triplet.anchor))
        lengths["positive"].append(measure(triplet.positive))
        lengths["negative"] += map(measure, triplet.negatives)
    return Summary(
        rows=rows,
        duplicates=duplicates,
        empties=empties,
        datasets=dict(datasets),
        unit="characters" if count_tokens is None else "tokens",
        lengths={part: _lengths(values) for part, values in lengths.items() if values},
        limit=limit,
        truncated=sum(value > limit for values in lengths.values() for value in values) if limit is not None else 0,
    )


def _lengths(values: Sequence[int]) -> Lengths:
    ordered = sorted(values)

    def share(percent: int) -> int:
        # Nearest rank: the smallest value that at least this share of the texts does not exceed.
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

    return Lengths(texts=len(ordered), median=share(50), p95=share(95), longest=ordered[-1])
