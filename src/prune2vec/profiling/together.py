"""Scorers in step: what they want to see of the same texts is seen in one pass through the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prune2vec.forward.backbone import Backbone
from prune2vec.forward.batches import PaddingSide
from prune2vec.forward.runner import Advance, ModelVariant, ObservedRun
from prune2vec.models.tokens import TokenRow
from prune2vec.profiling.scorer import Measurement, Request, Steps, Work

Rows = tuple[TokenRow, ...]


class Together:
    """The works of several scorers, to be done in step.

    Args:
        works: They, by the scorer's name.
    """

    def __init__(self, works: Mapping[str, Work]) -> None:
        self._steps: dict[str, Steps] = {name: work.start() for name, work in works.items()}
        self._wanted: dict[str, Sequence[Request]] = {name: next(steps) for name, steps in self._steps.items()}
        self._later = sum(work.later for work in works.values())

    @property
    def tokens(self) -> int:
        """Tokens that all of them together take through the model."""
        plan = _Plan([request for wanted in self._wanted.values() for request in wanted])
        return plan.tokens + self._later

    def run(
        self, backbone: Backbone, *, token_budget: int | None = None, advance: Advance = lambda amount: None
    ) -> dict[str, Any]:
        """Do the works.

        Args:
            backbone: The model that they are for.
            token_budget: Tokens that a forward pass may hold, padding included; None takes what suits the device.
            advance: Called with the number of tokens done.

        Returns:
            The sections by the scorer's name, in the order of the works.
        """
        sections: dict[str, Any] = dict.fromkeys(self._steps)
        wanted = self._wanted
        while wanted:
            plan = _Plan([request for requests in wanted.values() for request in requests])
            plan.run(backbone, token_budget=token_budget, advance=advance)
            following = {}
            for name, requests in wanted.items():
                try:
                    following[name] = self._steps[name].send([plan.result(request) for request in requests])
                except StopIteration as finished:
                    sections[name] = finished.value
            wanted = following
        return sections


def measure_alone(
    backbone: Backbone,
    measurement: Measurement,
    *,
    token_budget: int | None = None,
    padding_side: PaddingSide | None = None,
    advance: Advance = lambda amount: None,
) -> Any:
    """Return the result of one measurement on the whole model.

    Args:
        backbone: The model.
        measurement: What is measured.
        token_budget: Tokens that a forward pass may hold, padding included; None takes what suits the device.
        padding_side: Side on which shorter texts are filled up; None fills up none where that is possible and pays.
        advance: Called with the number of tokens done.
    """
    look = ObservedRun(watchers=[measurement])
    backbone.runner.run(measurement.rows, [look], token_budget=token_budget, padding_side=padding_side, advance=advance)
    return measurement.result()


class _Plan:
    """Requests of one step, equal ones once, by their texts and their variant of the model."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._runs: dict[Rows, dict[ModelVariant, dict[Any, Measurement]]] = {}
        for request in requests:
            made = request.measurement
            self._runs.setdefault(made.rows, {}).setdefault(request.variant, {}).setdefault(made.key, made)

    @property
    def tokens(self) -> int:
        return sum(len(variants) * sum(len(row.ids) for row in rows) for rows, variants in self._runs.items())

    def run(self, backbone: Backbone, *, token_budget: int | None, advance: Advance) -> None:
        for rows, variants in self._runs.items():
            looks = [ObservedRun(variant=variant, watchers=list(made.values())) for variant, made in variants.items()]
            backbone.runner.run(rows, looks, token_budget=token_budget, advance=advance)

    def result(self, request: Request) -> Any:
        return self._runs[request.measurement.rows][request.variant][request.measurement.key].result()
