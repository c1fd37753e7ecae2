"""The tables of experiments/gpu are made from the results beside them."""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "gpu"


def test_the_document_has_the_tables_that_the_results_give():
    spec = importlib.util.spec_from_file_location("gpu_tables", FOLDER / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    (card,) = (path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__")
    found = tables.tables(tables.read(card))
    text = (FOLDER / "README.md").read_text()
    assert all(f"<!-- table: {name} -->\n{table}\n<!-- end -->" in text for name, table in found.items())
    assert all(len(table.splitlines()) > 3 for table in found.values())
