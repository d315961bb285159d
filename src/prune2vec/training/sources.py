"""Whether what a training reads and its settings fit each other, before any work begins."""

from __future__ import annotations

from pathlib import Path

from prune2vec.data.folders import check_held_out
from prune2vec.data.plain_texts import Sources
from prune2vec.data.reader import Texts
from prune2vec.errors import ConfigError, DataError
from prune2vec.models.text_settings import SAVED
from prune2vec.paths import check_is_encoder
from prune2vec.progress import say
from prune2vec.training.train_settings import TrainSettings


def check_sources(data: Texts | None, texts: Sources | None, settings: TrainSettings) -> None:
    """Refuse both triplets and plain texts or neither, settings that do not fit the one given, and a teacher that is not there.

    Raises:
        ConfigError: They do not fit each other.
        DataError: Vectors of a teacher are not there.
        CheckpointError: The teacher is no encoder.
    """
    if (data is None) == (texts is None):
        raise ConfigError("train: give either data (triplets) or texts (plain texts, to learn a teacher's vectors from)")
    if settings.dev is not None:
        check_held_out(settings.dev, train=_paths(data), texts=_paths(texts))
    if settings.teacher is not None:
        check_is_encoder(settings.teacher)
    elif settings.teacher_vectors is not None and not Path(settings.teacher_vectors).exists():
        raise DataError(
            f"teacher_vectors: {settings.teacher_vectors} does not exist; give vectors that do, or a teacher to make them"
        )
    if settings.distil in ("similarities", "scores") and not (settings.learns_vectors or settings.deepest_teaches):
        say(f"distil {settings.distil} has no teacher to learn from, so the triplets' labels alone are learnt")
    if texts is None:
        if settings.prompts:
            raise ConfigError("prompts are for plain texts (--texts); triplets have the query's and the document's")
    else:
        _check_for_plain_texts(settings)


def _check_for_plain_texts(settings: TrainSettings) -> None:
    if not settings.learns_vectors:
        raise ConfigError("plain texts have nothing to learn without a teacher; give teacher (an encoder) or teacher_vectors")
    if settings.distil == "scores":
        raise ConfigError(
            "distil 'scores' compares the documents of triplets; for plain texts set it to vectors or similarities"
        )
    if settings.instruction != SAVED:
        raise ConfigError(
            f"instruction {settings.instruction!r} is for triplets; plain texts are learnt under the encoder's own prompts (prompts)"
        )


def _paths(given: Texts | Sources | None) -> list[str | Path]:
    several = [given] if isinstance(given, str | Path) else given or []
    return [one for one in several if isinstance(one, str | Path)]
