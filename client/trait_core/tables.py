"""Tables of all command lines: whole words on a terminal of any width, plain rows with full values in a pipe.

A terminal gets columns as wide as their text where they fit. Where they do not, text is wrapped between words, then the
optional columns give way, the last one first, and at last every row becomes a block of its own. A pipe gets one line for
the headings and one for each row, its values separated by tabs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len  # noqa: TID251
from rich.console import Console  # noqa: TID251
from rich.text import Text  # noqa: TID251

GAPS = (2, 1)
"""Spaces between columns: as usual, and where there is little room."""

_SHORTEST_VALUE = 20
"""Least width of a field's value; a terminal that is narrower folds."""


class Shown(NamedTuple):
    """A value that a terminal shows shortened and a pipe whole."""

    short: str
    full: str


Cell = str | Shown | Text
"""A value; a `Text` keeps its colours on a terminal."""


@dataclass(frozen=True)
class Column:
    """A heading, and how the column behaves.

    Args:
        heading: Its words.
        right: Align to the right, as numbers are.
        optional: Give way where the table would not fit.
    """

    heading: str
    right: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows.

    Args:
        columns: Headings.
        rows: One cell for each column.
        title: A line above the headings.
        marked: Indices of rows in bold.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    marked: Collection[int] = ()


class _Layout(NamedTuple):
    kept: list[int]
    widths: list[int]
    gap: int


def write_table(out: Console, table: Table) -> None:
    """Print a table on a console, in the form that suits a terminal of its width or a pipe."""
    if not out.is_terminal:
        _write_rows(out, table)
        return
    if table.title:
        out.print(visible(table.title), style="italic")
    cells = [[_short(cell) for cell in row] for row in table.rows]
    found = _layout(table.columns, cells, out.width)
    if found is None:
        for row in cells:
            write_fields(out, {column.heading: cell for column, cell in zip(table.columns, row, strict=True)})
            out.print()
        return
    columns = [table.columns[i] for i in found.kept]
    _write_row(out, columns, [Text(column.heading) for column in columns], found, "bold")
    for number, row in enumerate(cells):
        _write_row(out, columns, [row[i] for i in found.kept], found, "bold" if number in table.marked else "")
    hidden = [column.heading for i, column in enumerate(table.columns) if i not in found.kept]
    if hidden:
        note = f"left out for lack of room: {', '.join(hidden)}; a wider terminal or a pipe shows all"
        out.print(Text(note, style="dim"))


def write_fields(out: Console, fields: Mapping[str, Cell], styles: Mapping[str, str] | None = None) -> None:
    """Print a label and a value on each line; `styles` maps labels to the styles of their lines."""
    if not out.is_terminal:
        out.file.writelines(f"{_one_line(label)}\t{_one_line(_full(value))}\n" for label, value in fields.items())
        return
    label_width = max(map(cell_len, fields), default=0)
    room = max(_SHORTEST_VALUE, out.width - label_width - GAPS[0])
    for label, value in fields.items():
        for i, line in enumerate(_wrapped(_short(value), room)):
            text = Text(f"{label if i == 0 else '':{label_width}}{' ' * GAPS[0]}") + line
            text.rstrip()
            text.stylize((styles or {}).get(label, ""))
            out.print(text, soft_wrap=True)


def visible(text: str) -> Text:
    """Text without markup, its control characters made visible: a model's reply cannot move the terminal's cursor."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text))


# ---------------------------------------------------------------------------------------------------------- the layout


def _layout(columns: Sequence[Column], cells: Sequence[Sequence[Text]], room: int) -> _Layout | None:
    """The columns that fit, and their widths; None if the columns that must be shown do not fit."""
    kept = list(range(len(columns)))
    texts = [[column.heading, *(row[i].plain for row in cells)] for i, column in enumerate(columns)]
    natural, least = ([_widest(each, separator) for each in texts] for separator in ("\n", None))
    while True:
        for gap in GAPS:
            left = room - gap * (len(kept) - 1)
            if sum(least[i] for i in kept) <= left:
                return _Layout(kept, _shared([natural[i] for i in kept], [least[i] for i in kept], left), gap)
        optional = [i for i in kept if columns[i].optional]
        if not optional:
            return None
        kept.remove(optional[-1])


def _widest(texts: Sequence[str], separator: str | None) -> int:
    """Cells of the longest line (separator newline) or word (None) of some texts."""
    return max((cell_len(part) for text in texts for part in text.split(separator)), default=0)


def _shared(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths between the least and the natural ones; what is short is taken from the widest columns."""

    def capped(cap: int) -> list[int]:
        return [min(wish, max(word, cap)) for wish, word in zip(natural, least, strict=True)]

    cap = max(natural, default=0)
    while cap > 0 and sum(capped(cap)) > room:
        cap -= 1
    return capped(cap)


def _write_row(out: Console, columns: Sequence[Column], cells: Sequence[Text], layout: _Layout, style: str) -> None:
    wrapped = [_wrapped(cell, width) for cell, width in zip(cells, layout.widths, strict=True)]
    for i in range(max(map(len, wrapped))):
        row = Text(" " * layout.gap).join(
            _aligned(lines[i] if i < len(lines) else Text(), width, right=column.right)
            for column, lines, width in zip(columns, wrapped, layout.widths, strict=True)
        )
        row.rstrip()
        row.stylize(style)
        out.print(row, soft_wrap=True)


def _aligned(piece: Text, width: int, *, right: bool) -> Text:
    space = Text(" " * (width - cell_len(piece.plain)))
    return space + piece if right else piece + space


def _wrapped(text: Text, width: int) -> list[Text]:
    lines = list(text.wrap(Console(width=max(width, 1)), max(width, 1), overflow="fold", tab_size=1))
    for line in lines:
        line.rstrip()
    return lines or [Text()]


# -------------------------------------------------------------------------------------------------------------- a pipe


def _write_rows(out: Console, table: Table) -> None:
    """The title as a comment, the headings, and a line for each row."""
    if table.title:
        out.file.write(f"# {_one_line(table.title)}\n")
    headings = [column.heading for column in table.columns]
    for line in (headings, *([_full(cell) for cell in row] for row in table.rows)):
        out.file.write("\t".join(map(_one_line, line)) + "\n")


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).strip()


def _short(cell: Cell) -> Text:
    if isinstance(cell, Text):
        return cell
    return visible(cell.short if isinstance(cell, Shown) else cell)


def _full(cell: Cell) -> str:
    if isinstance(cell, Text):
        return cell.plain
    return cell.full if isinstance(cell, Shown) else cell
