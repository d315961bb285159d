"""The registry of neuron importances: what each neuron of an MLP is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from prune2vec.models.text_settings import TextOptions
from prune2vec.registry import Registry
from prune2vec.training.slim_settings import SlimSettings

if TYPE_CHECKING:
    from torch import Tensor

    from prune2vec.data.triplet import Triplet
    from prune2vec.training.importance_context import ImportanceContext

Scores = Mapping[int, "Tensor"]
ImportanceFn = Callable[["ImportanceContext", Sequence["Triplet"], SlimSettings], Scores]
Group = Literal["texts", "batches", "loss", "steps"]
F = TypeVar("F", bound=Callable[..., object])

TEXTS: Group = "texts"  # Triplets, their seed, and how they become vectors.
BATCHES: Group = "batches"  # How many batches of triplets are looked at.
LOSS: Group = "loss"  # The contrastive loss.
STEPS: Group = "steps"  # Steps of learning.
EVERY: tuple[Group, ...] = get_args(Group)
# What an importance reads says which of these its scores depend on.
_GROUPS: dict[Group, frozenset[str]] = {
    TEXTS: frozenset({"batch_size", "hard_negatives", "negative_sampling", "seed"}),
    BATCHES: frozenset({"batches"}),
    LOSS: frozenset({"scale"}),
    STEPS: frozenset(
        {
            *("steps", "learning_rate", "schedule", "warmup_steps", "max_grad_norm"),
            *("gate_penalty", "gate_sharpness"),
        }
    ),
}
# These decide which neurons are cut, or how a run is watched; the scores stay valid when they change. What a text is, the
# plan says.
_NOT_OF_SCORES = frozenset(
    {
        *TextOptions.model_fields,
        *("width_cut", "max_params", "floor", "multiple", "uniform"),
        *("gradient_checkpointing", "device", "dtype", "save_every", "restart"),
    }
)
# A layer whose neurons all score 0 keeps its zeros.
_TINY = 1e-30


class Importances(Registry[ImportanceFn]):
    """Neuron importances, and which groups of settings each one reads: no other setting makes its scores out of date."""

    def __init__(self) -> None:
        super().__init__("neuron importance", package="prune2vec.training.importances")
        self._reads: dict[str, frozenset[Group]] = {}
        self._within_layers: set[str] = set()

    def register(self, name: str, *, reads: Iterable[Group] = EVERY, within_layers: bool = False) -> Callable[[F], F]:
        """Return a decorator that files an importance under ``name``.

        Args:
            name: Its name, which can be taken once.
            reads: Groups of settings that its scores depend on; without ``TEXTS`` it is called without triplets.
            within_layers: Whether its scores are sizes that differ from layer to layer for reasons of their own, so that they
                compare neurons of one layer alone; each layer's are then divided by their mean.
        """
        groups, file = frozenset(reads), super().register(name)

        def add(part: F) -> F:
            filed = file(part)
            self._reads[name] = groups
            if within_layers:
                self._within_layers.add(name)
            return filed

        return add

    def reads(self, name: str) -> frozenset[Group]:
        """Return the groups of settings that an importance's scores depend on.

        Raises:
            ConfigError: No importance has that name.
        """
        self.get(name)
        return self._reads[name]

    def identity(self, settings: SlimSettings) -> dict[str, object]:
        """Return the settings that decide the scores; scores and checkpoints are only used again when they are the same.

        Raises:
            ConfigError: There is no such importance.
        """
        reads = self.reads(settings.importance)
        unread = (names for group, names in _GROUPS.items() if group not in reads)
        found = settings.model_dump(mode="json", exclude=set(_NOT_OF_SCORES.union(*unread)))
        # Files of scores and plans keep the key by which they have always named it.
        return {"ranking": found.pop("importance"), **found}

    def comparable(self, name: str, scores: Scores) -> Scores:
        """Return an importance's scores such that those of different layers can be compared."""
        if name not in self._within_layers:
            return scores
        return {layer: score / max(float(score.mean()), _TINY) for layer, score in scores.items()}


importances = Importances()
"""Each importance takes (context, triplets, settings) and returns the score of every neuron: by original layer, for every MLP of
the context, a 1-D float32 tensor on the CPU with one finite number a neuron; the lowest are cut first.

It leaves the context's model as it was. What is worth recording it hands to ``context.note``.
"""
