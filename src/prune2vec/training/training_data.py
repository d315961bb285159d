"""Triplets as sentence-transformers' trainer wants them: tables with prompts by column, the batches they give, and a collator."""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from prune2vec.data.instructions import Instructions
from prune2vec.data.plain_texts import PlainText
from prune2vec.data.triplet import Triplet, digest_texts
from prune2vec.errors import CheckpointError, ConfigError, DataError
from prune2vec.files import digest_json
from prune2vec.models.prepared_text import PreparedText, saved_prompts
from prune2vec.models.text_settings import E5, SAVED, PromptTemplate
from prune2vec.models.tokens import token_ids
from prune2vec.progress import say
from prune2vec.pruning.encoder import RECORD, read_record
from prune2vec.training.teacher import TeacherPrompt, TeacherVectors, named_prompt
from prune2vec.training.train_settings import TrainSettings

if TYPE_CHECKING:
    from datasets import DatasetDict


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """What stands before the texts of a triplet: an instruction, or, if there is none, the encoder's ``saved`` prompts."""

    instructions: Instructions | None
    text_format: PromptTemplate
    saved: tuple[str, str]

    @classmethod
    def of(cls, checkpoint: Path, encoder: SentenceTransformer, settings: TrainSettings) -> Prompting:
        """Read the checkpoint's own template and prompts, and the instruction that the settings ask for."""
        record = read_record(checkpoint)
        stored, text = record.get("text_format"), trained_text(record, settings)
        asked, symmetric = settings.instruction, settings.symmetric
        if asked == SAVED and str(text.get("instruction")).strip().lower() == E5:
            # An encoder's folder holds one prompt for all queries; these are one a data set.
            asked, symmetric = E5, text.get("symmetric")
        return cls(
            instructions=None if asked == SAVED else Instructions.parse(asked, symmetric),
            text_format=PromptTemplate.from_json(stored) if stored else PromptTemplate(),
            saved=saved_prompts(encoder.prompts or {}, encoder.default_prompt_name),
        )

    def before(self, triplet: Triplet) -> tuple[str, str]:
        """Return what stands before the anchor, and before the documents."""
        if self.instructions is None:
            return self.saved
        query, document = self.instructions.for_triplet(triplet)
        own = self.instructions.separator
        return self.text_format.before(query, own), self.text_format.before(document, own)


def trained_text(record: Mapping[str, Any], settings: TrainSettings) -> dict[str, Any]:
    """Return the text settings of a checkpoint's record, with what is trained with in place of its own instruction.

    Raises:
        CheckpointError: They are something else.
    """
    text = record.get("text") or {}
    if not isinstance(text, Mapping):
        raise CheckpointError(f"broken text settings {text!r} in {RECORD}; make the folder again with prune2vec prune")
    if settings.instruction != SAVED:
        used = {"instruction": settings.instruction, "symmetric": settings.symmetric}
        return {**text, **used, "prompts": {}, "default_prompt": None}
    is_e5 = str(text.get("instruction")).strip().lower() == E5
    return {**text, "symmetric": settings.symmetric} if is_e5 and settings.symmetric else dict(text)


Row = Triplet | PlainText


@dataclass(frozen=True, kw_only=True)
class TrainingTable:
    """The rows of one data set that share their prompts; plain texts have one prompt, given twice.

    Attributes:
        rows: Triplets, or plain texts.
        query_prompt: What stands before an anchor.
        document_prompt: What stands before a document.
        teacher_prompts: What a teacher gets before the same two: names of its own prompts, or given words.
    """

    rows: Sequence[Row]
    query_prompt: str
    document_prompt: str
    teacher_prompts: tuple[TeacherPrompt, TeacherPrompt] = (TeacherPrompt("query"), TeacherPrompt("document"))


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What is trained on.

    Attributes:
        tables: By name; a data set with two instructions becomes two tables, NAME and NAME#2.
        left_out: Tables with fewer rows than a batch, and how many rows they have.
        digest: SHA-256 of all texts, those left out too.
        settings: How many hard negatives a row has and how they are chosen, and whether teacher scores go with them.
        teacher: A teacher's vectors of all texts that the run gets to, once they are there.
    """

    tables: Mapping[str, TrainingTable]
    left_out: Mapping[str, int]
    digest: str
    settings: TrainSettings
    teacher: TeacherVectors | None = None

    @property
    def plain(self) -> bool:
        """Whether the rows are plain texts, not triplets."""
        return isinstance(next(iter(self.tables.values())).rows[0], PlainText)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of every table: the text; or the anchor first, then the documents, the positive first."""
        if self.plain:
            return ("text",)
        return ("anchor", "positive", *(f"negative_{number + 1}" for number in range(self.settings.hard_negatives)))

    @property
    def prompts(self) -> dict[str, dict[str, str]]:
        """What stands before the texts, by table and column (empty prompts too: they make the trainer name its tables)."""
        first, *documents = self.columns
        return {
            name: {first: table.query_prompt, **dict.fromkeys(documents, table.document_prompt)}
            for name, table in self.tables.items()
        }

    def texts_of(self, row: Row) -> tuple[str, ...]:
        """Return a row's texts by column: the text; or the anchor, the positive and the chosen hard negatives."""
        if isinstance(row, PlainText):
            return row.texts
        return (row.anchor, row.positive, *(row.negatives[number] for number in choose_negatives(row, self.settings)))

    def datasets(self) -> DatasetDict:
        """Return the tables as Hugging Face datasets, in memory.

        What is learnt of a teacher is in the column ``label``: its scores of a row's documents, or, by column, the numbers of
        its vectors.
        """
        from datasets import Dataset, DatasetDict

        made, keys = DatasetDict(), self.columns
        for name, table in self.tables.items():
            rows: list[dict[str, Any]] = []
            for row in table.rows:
                rows.append(dict(zip(keys, self.texts_of(row), strict=True)))
                if self.teacher is not None:
                    rows[-1]["label"] = [self.teacher.number(prompt, text) for prompt, text in self.for_teacher(table, row)]
                elif self.settings.distil == "data" and isinstance(row, Triplet):
                    rows[-1]["label"] = [row.scores[0], *(row.scores[1 + n] for n in choose_negatives(row, self.settings))]
            made[name] = Dataset.from_list(rows)
        return made

    def wanted(self, batches: Sequence[tuple[str, Sequence[Row]]] | None = None) -> dict[TeacherPrompt, dict[str, str]]:
        """Return the distinct texts of ``batches``, or of all rows, by the prompt that a teacher gets, each with its document's id."""
        found: dict[TeacherPrompt, dict[str, str]] = {}
        for name, rows in batches or [(name, table.rows) for name, table in self.tables.items()]:
            for row in rows:
                for prompt, text in self.for_teacher(self.tables[name], row):
                    found.setdefault(prompt, {}).setdefault(text, row.id if isinstance(row, PlainText) else "")
        return found

    def for_teacher(self, table: TrainingTable, row: Row) -> Iterator[tuple[TeacherPrompt, str]]:
        """Yield each of a row's texts with the prompt under which a teacher reads it."""
        query, document = table.teacher_prompts
        for place, text in enumerate(self.texts_of(row)):
            yield (document if place else query), text


def training_data(
    triplets: Sequence[Triplet], prompting: Prompting | PreparedText, settings: TrainSettings, *, quiet: bool = False
) -> TrainingData:
    """Sort triplets into tables that can each fill a batch; unless ``quiet``, say which cannot.

    Raises:
        DataError: There is no row, a row has no negative or teacher score though the settings want one, or no table fills a
            batch.
    """
    large, small = _large_enough(by_prompt(triplets, prompting), settings, quiet=quiet)
    check_rows(triplets, settings)
    return TrainingData(tables=large, left_out=small, digest=digest_texts(triplets), settings=settings)


def plain_data(texts: Sequence[PlainText], encoder: SentenceTransformer, settings: TrainSettings) -> TrainingData:
    """Return each distinct text once under each prompt of the settings, a table a prompt.

    Raises:
        ConfigError: The encoder has no such prompt, or puts the same before texts under two of them.
        DataError: There are fewer texts than a batch has rows.
    """
    first: dict[str, PlainText] = {}
    for one in texts:
        first.setdefault(one.text, one)
    rows = list(first.values())
    tables: dict[str, TrainingTable] = {}
    names: dict[str, str] = {}
    for name in settings.prompts or ("document",):
        prompt = named_prompt(encoder, name, whose="the encoder")
        if (other := names.setdefault(prompt, name)) != name:
            raise ConfigError(
                f"prompts: the encoder puts {prompt!r} before texts under both {other} and {name}; give one of them"
            )
        table = TrainingTable(
            rows=rows, query_prompt=prompt, document_prompt=prompt, teacher_prompts=(TeacherPrompt(name),) * 2
        )
        tables[name] = table
    large, small = _large_enough(tables, settings, quiet=False)
    return TrainingData(tables=large, left_out=small, digest=digest_json([row.text for row in rows]), settings=settings)


def _large_enough(
    tables: Mapping[str, TrainingTable], settings: TrainSettings, *, quiet: bool
) -> tuple[dict[str, TrainingTable], dict[str, int]]:
    """Return the tables that can fill a batch, and how many rows the others have."""
    large = {name: table for name, table in tables.items() if len(table.rows) >= settings.batch_size}
    small = {name: len(table.rows) for name, table in tables.items() if name not in large}
    if not large:
        found = ", ".join(f"{name} has {count}" for name, count in small.items()) or "there are none"
        raise DataError(f"no data set has the {settings.batch_size} rows of one batch ({found}); add rows or lower batch_size")
    if small and not quiet:
        named = ", ".join(f"{name} ({count})" for name, count in small.items())
        say(f"left out, because they cannot fill a batch of {settings.batch_size} rows: {named}")
    return large, small


def by_prompt(triplets: Sequence[Triplet], prompting: Prompting | PreparedText) -> dict[str, TrainingTable]:
    """Group triplets by data set and prompts, in order of appearance."""
    rows: dict[tuple[str, str, str], list[Triplet]] = {}
    for triplet in triplets:
        rows.setdefault((triplet.dataset or "data", *prompting.before(triplet)), []).append(triplet)
    tables: dict[str, TrainingTable] = {}
    for (dataset, query, document), found in rows.items():
        number = 1 + sum(1 for name in tables if name == dataset or name.startswith(f"{dataset}#"))
        name = dataset if number == 1 else f"{dataset}#{number}"
        # With the encoder's own prompts a teacher has its own as well; other words are for both.
        words = (None, None) if isinstance(prompting, Prompting) and prompting.instructions is None else (query, document)
        given = TeacherPrompt("query", words[0]), TeacherPrompt("document", words[1])
        tables[name] = TrainingTable(rows=found, query_prompt=query, document_prompt=document, teacher_prompts=given)
    return tables


def check_rows(rows: Sequence[Triplet], settings: TrainSettings) -> None:
    """Refuse rows that lack what the settings want of them.

    Raises:
        DataError: A row has no hard negative, or, with ``distil`` ``"data"``, no teacher score for each of its documents.
    """
    for row in rows:
        place = f"row {row.line + 1} of {row.dataset or 'the data'}"
        if settings.hard_negatives and not row.negatives:
            raise DataError(f"{place} has no hard negative; add one to each row or set hard_negatives to 0")
        if settings.distil != "data":
            continue
        complete = len(row.scores) == 1 + len(row.negatives)
        if not complete or not all(map(math.isfinite, row.scores)):
            counts = f"{len(row.scores)} teacher scores for {1 + len(row.negatives)} documents"
            found = "a teacher score that is not finite" if complete else counts
            raise DataError(
                f"{place} has {found}; give pos_scores and neg_scores (prune2vec mine negatives --score writes "
                "them), or set distil to none"
            )


def check_room(encoder: SentenceTransformer, tables: Mapping[str, TrainingTable]) -> None:
    """Refuse an instruction that fills all tokens an encoder reads: its texts would be cut away whole.

    Raises:
        ConfigError: One does; the message says how many tokens it has.
    """
    limit = encoder.max_seq_length
    for name, table in tables.items():
        for prompt in filter(None, (table.query_prompt, table.document_prompt)):
            # Special tokens count: they stay when a text is cut.
            (ids,) = token_ids(encoder.tokenizer, [prompt])
            if limit is not None and len(ids) >= limit:
                raise ConfigError(
                    f"{name}: the instruction has {len(ids)} tokens of max_length {limit}, which leaves none for texts; "
                    "raise max_length"
                )


def choose_negatives(row: Triplet, settings: TrainSettings) -> list[int]:
    """Return the numbers of ``hard_negatives`` of a row's negatives; all come equally often where there are too few.

    A draw depends on the seed and the row alone, not on its place, so that a resumed run trains on the same texts.
    """
    wanted, there = settings.hard_negatives, len(row.negatives)
    if settings.negative_sampling == "first" or not wanted:
        return [number % there for number in range(wanted)]
    draw = random.Random(f"{settings.seed}\n{row.anchor}\n{row.positive}")
    return [*range(there)] * (wanted // there) + draw.sample(range(there), wanted % there)


def plan_batches(data: TrainingData, trainer: SentenceTransformerTrainer, steps: int) -> list[tuple[str, list[Row]]]:
    """Return table and rows of every batch of a run: the trainer's own samplers, run ahead, so that a shortage shows at once.

    Raises:
        DataError: A table holds too many equal texts to fill its batches without repeating one within a batch.
    """
    sampler: Any = trainer.get_train_dataloader().batch_sampler
    sampler = getattr(sampler, "batch_sampler", sampler)  # Of whole batches, where each process gets a share.
    # The rows are numbered through all tables.
    numbered = [(name, row) for name, table in data.tables.items() for row in table.rows]
    batches: list[tuple[str, list[Row]]] = []
    for epoch in count():
        sampler.set_epoch(epoch)
        wanted = min(len(sampler), steps - len(batches))
        drawn = [(numbered[batch[0]][0], [numbered[row][1] for row in batch]) for batch in islice(sampler, wanted)]
        if len(drawn) < wanted:
            counts, size = Counter(name for name, _ in drawn), trainer.args.train_batch_size
            full = {name: len(table.rows) // size for name, table in data.tables.items()}
            worst = max(full, key=lambda name: (full[name] - counts[name]) / full[name])
            raise DataError(
                f"{worst}: {len(data.tables[worst].rows)} rows give {counts[worst]} batches of {size} in which no text comes "
                f"twice, expected {full[worst]}; lower batch_size or remove repeated texts"
            )
        batches += drawn
        if len(batches) >= steps:
            break
    return batches


def largest_batch(
    batches: Sequence[tuple[str, list[Row]]], data: TrainingData, encoder: SentenceTransformer, *, padded: bool = True
) -> list[Mapping[str, Any]]:
    """Return the tokenised columns of the largest batch by characters; ``padded`` up to its longest texts, or all together."""

    def size(batch: tuple[str, list[Row]]) -> int:
        texts = [data.texts_of(row) for row in batch[1]]
        if padded:
            # The batch is padded to its longest anchor and its longest document.
            return max(len(row[0]) for row in texts) + max((len(text) for row in texts for text in row[1:]), default=0)
        return sum(len(text) for row in texts for text in set(row))

    name, rows = max(batches, key=size)
    columns = zip(data.columns, zip(*map(data.texts_of, rows), strict=True), strict=True)
    return [encoder.preprocess(list(column), prompt=data.prompts[name][key]) for key, column in columns]


@dataclass(frozen=True, kw_only=True)
class BatchStats:
    """What one batch holds: rows of which table, tokens without padding, texts, and those that were longer than the limit."""

    dataset: str
    tokens: int
    texts: int
    cut: int


@dataclass
class NotingCollator(SentenceTransformerDataCollator):
    """Tokenises a batch as sentence-transformers does and leaves a note on it, in the order in which batches are used.

    A note cannot travel inside the batch: what the trainer does not know there, it hands to the model.
    """

    notes: deque[BatchStats] = field(default_factory=deque)
    cut: int = 0

    @classmethod
    def of(cls, encoder: SentenceTransformer, prompts: dict[str, dict[str, str]]) -> NotingCollator:
        """Return a collator for ``encoder`` with prompts by table and column."""

        def preprocess(inputs: list[str], **kwargs: Any) -> Any:
            output = encoder.preprocess(inputs, **kwargs)
            # Only fast tokenisers keep what they cut off, and only those are used here.
            collator.cut += sum(bool(encoding.overflowing) for encoding in getattr(output, "encodings", None) or ())
            return output

        collator = cls(preprocess_fn=preprocess, prompts=prompts)
        return collator

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Tokenise rows of one table."""
        self.cut = 0
        batch: dict[str, Any] = super().__call__(features)
        masks = [value for key, value in batch.items() if key.endswith("_attention_mask")]
        self.notes.append(
            BatchStats(
                dataset=str(batch.get("dataset_name", "")),
                tokens=sum(int(torch.count_nonzero(mask)) for mask in masks),
                texts=sum(len(mask) for mask in masks),
                cut=self.cut,
            )
        )
        return batch
