"""Markdown tables that a script writes between marks of a document: `<!-- table: NAME -->` and `<!-- end -->`."""

from collections.abc import Iterable, Mapping


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    first = [str(cell) for cell in head]
    lines = [first, ["---"] * len(first), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def filled(text: str, tables: Mapping[str, str]) -> str:
    """The document with each table between its marks; it ends the script where one has no place."""
    for name, made in tables.items():
        before, start, rest = text.partition(f"<!-- table: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (start and end):
            raise SystemExit(f"the document has no place for the table {name!r}")
        text = before + start + made + "\n" + end + after
    return text
