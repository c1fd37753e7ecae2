"""Tables, views and macros of a result database, from one that is made for it."""

import tempfile
from pathlib import Path

from page_parts import document, table

COLUMNS = """
select c.table_name, t.table_type, c.column_name, c.data_type
from information_schema.columns c join information_schema.tables t using (table_name)
order by t.table_type, c.table_name, c.ordinal_position
"""
MACROS = """
select function_name, parameters from duckdb_functions()
where not internal and function_type like '%macro%' order by function_name
"""


def page() -> str:
    """Text of the page."""
    from trait_client.results import ResultStore

    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(Path(folder) / "results.duckdb")
        with store.writer():
            pass
        columns, macros = store.query(COLUMNS)[1], store.query(MACROS)[1]
    parts = [
        (
            "One DuckDB file holds the results of sweeps, corpora and judges. What to ask it: [howto-sql.md](../howto-sql.md). "
            "Comments on the columns: `client/trait_client/results/tables.sql`."
        ),
    ]
    for heading, kind in (("## Views", "VIEW"), ("## Tables", "BASE TABLE")):
        found: dict[str, list[tuple[str, str]]] = {}
        for name, of_kind, column, data_type in columns:
            if of_kind == kind:
                found.setdefault(name, []).append((f"`{column}`", data_type.lower()))
        parts.append(heading)
        parts += [f"### {name}\n\n{table(('column', 'type'), rows)}" for name, rows in found.items()]
    parts.append("## Macros")
    parts.append("\n".join(f"- `{name}({', '.join(parameters)})`" for name, parameters in macros))
    return document("SQL", parts)
