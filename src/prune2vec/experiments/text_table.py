"""One table, shown as plain text or as Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from prune2vec.errors import markdown, shown


@dataclass(frozen=True)
class TextTable:
    """Cells as they are shown; the first column is text, the others are numbers.

    Attributes:
        header: Column titles.
        rows: Cells, one tuple per row, as many as there are titles.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_text(self) -> str:
        """Return aligned columns for a terminal."""
        lines = [tuple(map(shown, line)) for line in (self.header, *self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        aligned = [self._line(line, widths) for line in lines]
        return "\n".join([aligned[0], "─" * len(aligned[0]), *aligned[1:]])

    @staticmethod
    def _line(cells: tuple[str, ...], widths: list[int]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join([cells[0].ljust(widths[0]), *numbers])

    def to_markdown(self) -> str:
        """Return a Markdown table."""
        rule = ("---", *("---:" for _ in self.header[1:]))
        header, *rows = (tuple(map(markdown, line)) for line in (self.header, *self.rows))
        return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))

    def without_empty_columns(self) -> TextTable:
        """Return the table without the columns that have no value in any row."""
        kept = [column for column in range(len(self.header)) if any(row[column] for row in self.rows)]
        return TextTable(self._pick(self.header, kept), tuple(self._pick(row, kept) for row in self.rows))

    @staticmethod
    def _pick(cells: tuple[str, ...], columns: list[int]) -> tuple[str, ...]:
        return tuple(cells[column] for column in columns)
