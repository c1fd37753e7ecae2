"""Tables: whole words on terminals of 80 and 60 columns, plain rows with full values in a pipe."""

import io

import pytest
from rich.console import Console
from rich.text import Text
from trait_core.tables import Column, Shown, Table, write_fields, write_table

SHA256 = "sha256:" + "0123456789abcdef" * 4


def number(heading, *, optional=False):
    return Column(heading, right=True, optional=optional)


EVIDENCE = Table(
    [
        Column("trait"), Column("method"), number("layer"), Column("by", optional=True), number("AUC"), number("95 %", optional=True),
        number("Cohen's d"), number("separation", optional=True), number("/ norm"),
    ],
    [
        ["sycophancy", "mean_diff", "14", "evidence", "0.98", "0.95..1.00", "3.27", "102.4", "0.71"],
        ["helpfulness_intent", "gradient", "9", "steering", "0.91", "0.85..0.97", "2.10", "8.0", "0.10"],
    ],
    title="Held-out evidence at the chosen layer",
)  # fmt: skip
WORDS = {word for row in EVIDENCE.rows for cell in row for word in cell.split()}


def written(table, width=80, *, terminal=True):
    console = Console(width=width, force_terminal=terminal, color_system=None, highlight=False, file=io.StringIO())
    write_table(console, table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 60])
def test_words_stay_whole_and_lines_fit(width):
    text = written(EVIDENCE, width)
    assert max(map(len, text.splitlines())) <= width
    hidden = text.partition("left out for lack of room: ")[2]
    dropped = {w for row in EVIDENCE.rows for c, cell in zip(EVIDENCE.columns, row, strict=True) if c.heading in hidden
               for w in cell.split()}  # fmt: skip
    assert {word for word in WORDS if word not in text} <= dropped
    assert {"sycophancy", "mean_diff", "helpfulness_intent", "gradient"} <= set(text.split())


def test_a_wide_terminal_shows_every_column_on_one_line_a_row():
    lines = written(EVIDENCE, 120).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == [
        "trait",
        "method",
        "layer",
        "by",
        "AUC",
        "95",
        "%",
        "Cohen's",
        "d",
        "separation",
        "/",
        "norm",
    ]
    assert lines[2].split() == list(EVIDENCE.rows[0])


def test_headings_are_wrapped_before_a_column_is_left_out():
    table = Table([Column("trait"), number("Cohen's d"), number("spare", optional=True)], [["x" * 20, "3.27", "1"]])
    text = written(table, 36)
    assert "left out" not in text
    assert [line.split() for line in text.splitlines()] == [
        ["trait", "Cohen's", "spare"], ["d"], ["x" * 20, "3.27", "1"],
    ]  # fmt: skip


def test_optional_columns_give_way_from_the_last_and_are_named():
    text = written(EVIDENCE, 60)
    assert "left out for lack of room: by, 95 %, separation" in text
    assert "0.71" in text


def test_rows_become_blocks_where_the_words_of_the_needed_columns_do_not_fit():
    table = Table([Column("name"), Column("text")], [["a" * 20, "some words"], ["b" * 20, "x" * 40]])
    assert [line.split() for line in written(table, 45).splitlines()] == [
        ["name", "a" * 20], ["text", "some", "words"], [], ["name", "b" * 20], ["text", "x" * 39], ["x"], [],
    ]  # fmt: skip


def test_a_pipe_gets_a_line_a_row_of_full_values_whatever_the_width():
    table = Table(
        [Column("name"), Column("sha256", optional=True), Column("text")],
        [["refusal", Shown("0123456789ab", SHA256), "two\nlines\tand a tab \x1b[2J"], ["x" * 300, "", Text("y")]],
        title="A title",
    )
    assert written(table, 20, terminal=False).splitlines() == [
        "# A title",
        "name\tsha256\ttext",
        f"refusal\t{SHA256}\ttwo\\nlines\\tand a tab \\x1b[2J",
        f"{'x' * 300}\t\ty",
    ]


def test_a_terminal_gets_short_values_and_no_control_characters():
    text = written(Table([Column("sha256")], [[Shown("0123456789ab", SHA256)], ["\x1b[2J"]]))
    assert text.split() == ["sha256", "0123456789ab", "\\x1b[2J"]


def test_wide_characters_are_counted_as_they_are_shown():
    lines = written(Table([Column("text"), number("n")], [["日本", "1"], ["abcd", "2"]])).splitlines()
    assert [line.index(digit) for line, digit in zip(lines[1:], "12", strict=True)] == [4, 6]


@pytest.mark.parametrize("width", [80, 60])
def test_fields_wrap_between_words(width):
    console = Console(width=width, force_terminal=True, color_system=None, highlight=False, file=io.StringIO())
    write_fields(console, {"operations": ", ".join(f"operation_{i}" for i in range(12)), "model": "smollm2"})
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.startswith(("operations  operation_", " " * 12 + "operation_", "model       ")) for line in lines)
    assert sum(line.count("operation_") for line in lines) == 12


def test_fields_in_a_pipe_are_a_label_a_tab_and_the_whole_value():
    console = Console(width=30, force_terminal=False, file=io.StringIO())
    write_fields(console, {"model": "m " * 100})
    assert console.file.getvalue() == f"model\t{('m ' * 100).strip()}\n"
