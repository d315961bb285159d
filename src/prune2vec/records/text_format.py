"""The one explicit, saved setting of what stands around a text before it is tokenised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from prune2vec.errors import DataError


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """What is put around a text. The default adds nothing.

    A text is rendered as ``prefix + instruction + separator + text + suffix`` (instruction and separator only when there
    is an instruction). Everything before the text is attended to but not pooled; the suffix is pooled, as in L3Prune.

    Attributes:
        wrapper: Where prefix and suffix come from: ``"none"``, or ``"chat"`` (the user turn of the model's chat template).
        prefix: Literal text before the instruction.
        suffix: Literal text after the text.
        separator: Between instruction and text. L3Prune's code has ``"; "``; a line break is the default here since its
            token never merges with the first of the text, so that sentence-transformers, which counts the tokens of
            the prompt alone, leaves out of the pooling exactly the prompt.
    """

    wrapper: str = "none"
    prefix: str = ""
    suffix: str = ""
    separator: str = "\n"

    def before(self, instruction: str = "", separator: str | None = None) -> str:
        """Return everything that stands before the text.

        Args:
            instruction: The words; empty for none.
            separator: What joins this instruction to the text, where it brings its own; None is the format's.
        """
        if not instruction:
            return self.prefix
        return self.prefix + instruction + (self.separator if separator is None else separator)

    def to_json(self) -> dict[str, str]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read back what ``to_json`` wrote.

        Raises:
            DataError: It is something else.
        """
        if not isinstance(value, Mapping) or not set(value) <= {one.name for one in fields(cls)}:
            raise DataError(f"broken text format {value!r}; make the folder again with prune2vec prune")
        return cls(**value)
