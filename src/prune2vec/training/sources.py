"""Whether what a training reads and its settings fit each other, before any work begins."""

from __future__ import annotations

from pathlib import Path

from prune2vec.data.folders import check_held_out
from prune2vec.data.plain_texts import Sources
from prune2vec.data.reader import Texts
from prune2vec.errors import ConfigError, DataError
from prune2vec.models.text_settings import SAVED
from prune2vec.paths import check_is_encoder, check_outside
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


def check_places(checkpoint: str | Path, output: str | Path, settings: TrainSettings) -> None:
    """Refuse to write into an encoder that is read, or a teacher's vectors into the folder that the trained one becomes.

    Raises:
        ConfigError: The output, or where the teacher's vectors are kept, lies there.
    """
    # Without a teacher the vectors are there, and are only read.
    vectors = settings.teacher_vectors if settings.teacher is not None else None
    for place in (output, vectors):
        for encoder in (checkpoint, settings.teacher):
            if place is None or encoder is None or not Path(encoder).is_dir():
                continue
            check_outside(place, encoder)
            if Path(place).resolve() == Path(encoder).resolve():
                raise ConfigError(f"{place} is an encoder that is read; give another folder to write")
    if vectors is not None and Path(output).resolve() in (Path(vectors).resolve(), *Path(vectors).resolve().parents):
        raise ConfigError(f"teacher_vectors: {vectors} is inside the output {output}; keep them elsewhere")


def _check_for_plain_texts(settings: TrainSettings) -> None:
    if not settings.learns_vectors:
        raise ConfigError("plain texts have nothing to learn without a teacher; give teacher (an encoder) or teacher_vectors")
    if settings.distil == "scores":
        raise ConfigError(
            "distil 'scores' compares the documents of triplets; for plain texts set it to vectors or similarities"
        )
    if settings.distil == "similarities" and settings.distance == "kl" and settings.batch_size < 3:
        raise ConfigError(
            f"batch_size {settings.batch_size} leaves each text one other to be similar to, which is nothing to learn; give at least 3"
        )
    if settings.instruction != SAVED:
        raise ConfigError(
            f"instruction {settings.instruction!r} is for triplets; plain texts are learnt under the encoder's own prompts (prompts)"
        )


def _paths(given: Texts | Sources | None) -> list[str | Path]:
    several = [given] if isinstance(given, str | Path) else given or []
    return [one for one in several if isinstance(one, str | Path)]
