"""Triplets as sentence-transformers' trainer wants them: one table per data set and instruction, and prompts by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.data.instructions import Instructions
from prune2vec.data.reader import Texts, given_triplets
from prune2vec.data.triplet import Triplet, digest_texts
from prune2vec.errors import ConfigError, DataError
from prune2vec.models.prepared_text import saved_prompts
from prune2vec.models.text_settings import SAVED, PromptTemplate
from prune2vec.progress import say
from prune2vec.pruning.encoder import read_record
from prune2vec.training.row_negatives import check_rows, choose_negatives, chosen_scores
from prune2vec.training.train_settings import TrainSettings

if TYPE_CHECKING:
    from datasets import DatasetDict
    from sentence_transformers import SentenceTransformer

Data = Texts


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """What stands before the texts of a triplet.

    Attributes:
        instructions: Chosen by triplet; None leaves the prompts that the encoder was saved with.
        text_format: How an instruction and a text are joined.
        saved: The encoder's own prompts for queries and documents.
    """

    instructions: Instructions | None
    text_format: PromptTemplate
    saved: tuple[str, str]

    @classmethod
    def of(cls, checkpoint: Path, encoder: SentenceTransformer, settings: TrainSettings) -> Prompting:
        """Read the checkpoint's own wrapper and prompts, and the instruction that the settings ask for."""
        record = read_record(checkpoint)
        stored, text = record.get("text_format"), record.get("text") or {}
        asked, symmetric = settings.instruction, settings.symmetric
        if asked == SAVED and text.get("instruction") == "e5":
            # An encoder's folder holds one prompt for all queries; these are one a data set.
            asked, symmetric = "e5", symmetric or text.get("symmetric")
        chosen = None if asked == SAVED else Instructions.parse(asked, symmetric)
        return cls(
            instructions=chosen,
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


@dataclass(frozen=True, kw_only=True)
class TrainingTable:
    """The rows of one data set that share their prompts."""

    rows: list[Triplet]
    query_prompt: str
    document_prompt: str


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What is trained on.

    Attributes:
        tables: By name; a data set with two instructions becomes two tables, NAME and NAME#2.
        left_out: Tables with fewer rows than a batch, and how many rows they have.
        digest: SHA-256 of all texts, those left out too.
        settings: How many hard negatives a row has and how they are chosen, and whether teacher scores go with them.
    """

    tables: Mapping[str, TrainingTable]
    left_out: Mapping[str, int]
    digest: str
    settings: TrainSettings

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of every table: the anchor first, then the documents, the positive first."""
        return ("anchor", "positive", *(f"negative_{number + 1}" for number in range(self.settings.hard_negatives)))

    @property
    def prompts(self) -> dict[str, dict[str, str]]:
        """What stands before the texts, by table and column (empty prompts too: they make the trainer name its tables)."""
        documents = self.columns[1:]
        return {
            name: {"anchor": table.query_prompt, **dict.fromkeys(documents, table.document_prompt)}
            for name, table in self.tables.items()
        }

    def texts_of(self, row: Triplet) -> tuple[str, ...]:
        """Return a row's texts by column: the anchor, the positive and the chosen hard negatives."""
        return (row.anchor, row.positive, *(row.negatives[number] for number in choose_negatives(row, self.settings)))

    def datasets(self) -> DatasetDict:
        """Return the tables as Hugging Face datasets, in memory; teacher scores, if learnt, in the column ``label``."""
        from datasets import Dataset, DatasetDict

        return DatasetDict({name: Dataset.from_list(list(self._dicts(table))) for name, table in self.tables.items()})

    def _dicts(self, table: TrainingTable) -> Iterator[dict[str, Any]]:
        for row in table.rows:
            scores = (
                {"label": chosen_scores(row, choose_negatives(row, self.settings))} if self.settings.distil == "data" else {}
            )
            yield {**dict(zip(self.columns, self.texts_of(row), strict=True)), **scores}


def training_data(triplets: Sequence[Triplet], prompting: Prompting, settings: TrainSettings) -> TrainingData:
    """Sort triplets into tables that can each fill a batch.

    Raises:
        DataError: There is no row, a row has no negative or teacher score though the settings want one, or no table fills a
            batch.
    """
    tables = by_prompt(triplets, prompting)
    large = {name: table for name, table in tables.items() if len(table.rows) >= settings.batch_size}
    small = {name: len(table.rows) for name, table in tables.items() if name not in large}
    if not large:
        found = ", ".join(f"{name} has {count}" for name, count in small.items()) or "there are none"
        raise DataError(f"no data set has the {settings.batch_size} rows of one batch ({found}); add rows or lower batch_size")
    if small:
        named = ", ".join(f"{name} ({count})" for name, count in small.items())
        say(f"left out, because they cannot fill a batch of {settings.batch_size} rows: {named}")
    check_rows(triplets, settings)
    return TrainingData(tables=large, left_out=small, digest=digest_texts(triplets), settings=settings)


def by_prompt(triplets: Sequence[Triplet], prompting: Prompting) -> dict[str, TrainingTable]:
    """Group triplets by data set and prompts, in order of appearance."""
    rows: dict[tuple[str, str, str], list[Triplet]] = {}
    for triplet in triplets:
        rows.setdefault((triplet.dataset or "data", *prompting.before(triplet)), []).append(triplet)
    tables: dict[str, TrainingTable] = {}
    for (dataset, query, document), found in rows.items():
        number = 1 + sum(1 for name in tables if name == dataset or name.startswith(f"{dataset}#"))
        name = dataset if number == 1 else f"{dataset}#{number}"
        tables[name] = TrainingTable(rows=found, query_prompt=query, document_prompt=document)
    return tables


def check_room(encoder: SentenceTransformer, tables: Mapping[str, TrainingTable]) -> None:
    """Refuse an instruction that fills all tokens an encoder reads: its texts would be cut away whole.

    Raises:
        ConfigError: One does; the message says how many tokens it has.
    """
    limit = encoder.max_seq_length
    for name, table in tables.items():
        for prompt in filter(None, (table.query_prompt, table.document_prompt)):
            # Special tokens count: they stay when a text is cut.
            count = len(encoder.tokenizer(prompt, truncation=False, verbose=False)["input_ids"])
            if limit is not None and count >= limit:
                raise ConfigError(
                    f"{name}: the instruction has {count} tokens of max_length {limit}, which leaves none for texts; "
                    "raise max_length"
                )


def read(data: Data, *, hard_negatives: int, split: str = "train") -> list[Triplet]:
    """Return triplets that were given as such, or read them; of a folder, the files of a split (see ``read_triplets``).

    Raises:
        DataError: They cannot be read, or there are none.
    """
    return given_triplets(data, require_negative=hard_negatives > 0, split=split)
