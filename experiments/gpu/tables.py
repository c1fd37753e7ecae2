"""Tables of a GPU's results: `python experiments/gpu/tables.py [nvidia-h200] [--write]` prints them, or puts them into README.md."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from marked_tables import filled, table

HERE = Path(__file__).resolve().parent
COMPARED = "kernel against torch, relative errors"
TIMES = "times in a CUDA graph"


def read(card: str) -> list[dict[str, Any]]:
    """The documents that the scripts of `tests/gpu/stages` printed."""
    return [json.loads(line) for line in (HERE / card / "results.jsonl").read_text().splitlines()]


def tables(documents: list[dict[str, Any]]) -> dict[str, str]:
    """Name -> table."""
    return {
        "verify": table(
            ("`trait-service verify` on", "dtype", "mode", "checks that passed", "failed"), _verified(documents)
        ),
        "kernels": table(("dtype", "batches", "within the tolerance", "largest error of those"), _compared(documents)),
        "times": table(("width", "tokens", *_asked(documents)), _times(documents)),
        "throughput": table(("shape", "batch", "stock, tokens/s", *_variants(documents)), _throughput(documents)),
    }


def _rows(documents: list[dict[str, Any]], table: str) -> Iterator[dict[str, Any]]:
    for document in documents:
        yield from document.get("tables", {}).get(table, ())


def _asked(documents: list[dict[str, Any]]) -> list[str]:
    """The kinds of requests whose times were measured."""
    return list(dict.fromkeys(row["asked"] for row in _rows(documents, TIMES)))


def _variants(documents: list[dict[str, Any]]) -> list[str]:
    """What the engine with the plugin was asked for."""
    benches = (document["bench"]["seconds"] for document in documents if "bench" in document)
    return [name for name in next(benches) if not name.startswith("stock")]


def _verified(documents: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for document in documents:
        for engine in document.get("tables", {}).get("engine", ()):
            checks = document["tables"]["checks"]
            passed = [row["check"] for row in checks if row["status"] == "ok"]
            names = f"{engine['architecture']}, {engine['layers']} layers of {engine['width']}, random weights"
            yield names, engine["dtype"], engine["mode"], ", ".join(passed), len(document["failures"])


def _compared(documents: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    rows = list(_rows(documents, COMPARED))
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        here = [row for row in rows if row["dtype"] == dtype]
        good = [row for row in here if not row["problem"] and row["streams"] <= row["allowed"]]
        yield dtype, len(here), len(good), f"{max(row['streams'] for row in good):.1e}"


def _times(documents: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    times = {(row["d_model"], row["tokens"], row["asked"]): row["us a layer"] for row in _rows(documents, TIMES)}
    for d_model, tokens in dict.fromkeys((d_model, tokens) for d_model, tokens, _ in times):
        yield d_model, tokens, *(f"{times[d_model, tokens, asked]:.1f}" for asked in _asked(documents))


def _throughput(documents: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for found in (document["bench"] for document in documents if "bench" in document):
        seconds = found["seconds"]
        if "stock" in seconds:
            rate = found["tokens"] / seconds["stock"][0]
            ratios = (seconds["stock"][0] / seconds[name][0] for name in _variants(documents))
            yield found["model"].removeprefix("shape"), found["batch"], f"{rate:.0f}", *(f"{r:.3f}" for r in ratios)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("card", nargs="?", default="nvidia-h200", help="folder of the results [default: nvidia-h200]")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md beside this script")
    given = parser.parse_args()
    found = tables(read(given.card))
    if given.write:
        document = HERE / "README.md"
        document.write_text(filled(document.read_text(), found))
        return
    print("\n\n".join(found.values()))


if __name__ == "__main__":
    main()
