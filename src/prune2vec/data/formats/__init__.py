"""File formats: one module each, registered under the file suffix; ``.gz`` around a text format is handled for all."""

from __future__ import annotations

from prune2vec.data.rows import RowReader, SourceRow, formats, known_suffixes, no_rows, read_rows, suffix_of

__all__ = ["RowReader", "SourceRow", "formats", "known_suffixes", "no_rows", "read_rows", "suffix_of"]
