"""Print a study's figures of both models side by side: `python experiments/both_models.py jailbreak`.

The figures are computed from the tables that are committed beside the study's page, by the query in its `both_models.sql`. The query
sees each table under the name of its file, with a column `model`, and gives one row a figure and model: `figure`, `model`, `value`.
"""

import argparse
from pathlib import Path

import duckdb
from marked_tables import table

EXPERIMENTS = Path(__file__).resolve().parent
MODELS = {"smollm2": "SmolLM2-135M-Instruct", "qwen2.5-coder-0.5b": "Qwen2.5-Coder-0.5B-Instruct"}
"""Models, by the name of their folder in a study; the small one's tables are in the study's own folder."""
QUERY = "both_models.sql"
STUDIES = sorted(path.parent.name for path in EXPERIMENTS.glob(f"*/{QUERY}"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=STUDIES)
    print("\n".join(side_by_side(EXPERIMENTS / parser.parse_args().study)))


def side_by_side(folder: Path) -> list[str]:
    """The lines of a Markdown table: a row for each figure, a column for each model that has tables.

    Raises:
        duckdb.Error: The query does not fit the tables.
    """
    with duckdb.connect() as connection:
        names = {path.stem for model in MODELS for path in tables(folder, model)}
        for name in names:
            connection.execute(f'create view "{name}" as {union(folder, name)}')
        rows = connection.execute((folder / QUERY).read_text(encoding="utf-8")).fetchall()
    models = [model for model in MODELS if any(model == of for _, of, _ in rows)]
    values = {(figure, model): value for figure, model, value in rows}
    figures = dict.fromkeys(figure for figure, _, _ in rows)
    header = ["", *(MODELS[model] for model in models)]
    cells = [[figure, *(values.get((figure, model), "-") for model in models)] for figure in figures]
    return table(header, cells).splitlines()


def tables(folder: Path, model: str) -> list[Path]:
    """The committed tables of one model."""
    return sorted((folder if model == "smollm2" else folder / model).glob("*.csv"))


def union(folder: Path, name: str) -> str:
    """The query that reads one table of all models."""
    files = {model: path for model in MODELS for path in tables(folder, model) if path.stem == name}
    parts = [f"select '{of}' as model, * from read_csv('{path}', header = true)" for of, path in files.items()]  # noqa: S608 - our own files
    return " union all by name ".join(parts)


if __name__ == "__main__":
    main()
