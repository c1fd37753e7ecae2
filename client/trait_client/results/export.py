"""The result tables as Parquet files."""

from pathlib import Path

from trait_client.results.store import ResultStore

VIEWS = (
    "trial_deltas",
    "cell_summary",
    "trait_summary",
    "best_coherent",
    "effect_and_damage",
    "pareto_front",
    "method_comparison",
    "precision_delta",
    "patch_cells",
)


def export_parquet(db: Path, folder: Path, *, views: bool = False) -> dict[str, int]:
    """Write every table (and view) to `<folder>/<name>.parquet`; also while a sweep writes.

    Returns:
        Rows by name.

    Raises:
        ResultsError: The database does not exist or cannot be read.
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ResultStore(db).reader(writes_files=True) as reader:
        tables = [name for (name,) in reader.query("SELECT table_name FROM duckdb_tables() ORDER BY 1").rows]
        written = {}
        for name in [*tables, *(VIEWS if views else ())]:
            target = str(folder / f"{name}.parquet").replace("'", "''")
            query = f"COPY (SELECT * FROM \"{name}\") TO '{target}' (FORMAT parquet, COMPRESSION zstd)"  # noqa: S608 - names are the database's own
            ((written[name],),) = reader.query(query).rows
    return written
