"""Where a model keeps the answer to a question of facts: capitals of four countries, patched pair by pair.

    trait-service serve smollm2 --enforce-eager --port 8000
    python experiments/patching/facts.py run --url http://127.0.0.1:8000 --db patching.duckdb
    python experiments/patching/facts.py table --db patching.duckdb

`run` stores every cell of every pair; pairs that the database holds whole are left out, and several models may share a
database. `table` writes shares.csv (means over the pairs), pairs.csv and patching.png beside this file.
"""

import argparse
import asyncio
import csv
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from trait_client.http import AsyncTraitClient
from trait_client.patching import run_patch
from trait_client.patching.run import identity_of
from trait_client.results import ResultStore
from trait_core.schema import PatchPrompt, PatchRequest

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
CAPITALS = {"France": " Paris", "Italy": " Rome", "Japan": " Tokyo", "Germany": " Berlin"}
PAIRS = list(pairwise([*CAPITALS, "France"]))
"""Source and target: each country once as either."""

SHARES = """
SELECT model, layer, position, part, any_value(n_layers), count(*) AS n, avg(restored), min(restored), max(restored),
       CASE WHEN part = 'span' THEN '(country)' ELSE any_value(token) END AS token
FROM patch_cells JOIN patchings USING (patching_id, model)
GROUP BY model, layer, position, part
ORDER BY model, layer, position
"""
PAIR_ROWS = "SELECT model, name, source_difference, target_difference FROM patchings ORDER BY model, patched_at"


def prompt(country: str) -> PatchPrompt:
    """The question about one country, and its answer."""
    return PatchPrompt(text=f"The capital of {country} is the city of", span=country, answer=CAPITALS[country])


async def run(url: str, db: Path) -> None:
    """Patch every pair that the database does not hold whole."""
    store = ResultStore(db)
    async with AsyncTraitClient(url, timeout=3600) as client:
        info = await client.info()
        for source, target in PAIRS:
            request = PatchRequest(source=prompt(source), target=prompt(target))
            if layers_of(store, identity_of(request, info)) == info.n_layers:
                continue
            outcome = await run_patch(request, client, store, f"{target} <- {source}")
            print(f"{info.model}, {target} <- {source}: {outcome.line}", flush=True)


def layers_of(store: ResultStore, patching_id: str) -> int:
    """Layers of a patching that are stored."""
    if not store.path.exists():
        return 0
    with store.reader() as reader:
        ((n,),) = reader.rows("SELECT count(DISTINCT layer) FROM patches WHERE patching_id = ?", [patching_id])
    return int(n)


def table(db: Path) -> None:
    """Write the tables and the figure."""
    with ResultStore(db).reader() as reader:
        shares, pairs = reader.rows(SHARES), reader.rows(PAIR_ROWS)
    write("pairs.csv", ["model", "pair", "source_difference", "target_difference"], pairs)
    columns = ["model", "layer", "position", "part", "n_layers", "n", "mean", "least", "most", "token"]
    write("shares.csv", columns, shares)
    draw([dict(zip(columns, row, strict=True)) for row in shares])


def write(name: str, columns: list[str], rows: list[tuple]) -> None:
    """A CSV file beside this one, numbers with four digits."""
    with (HERE / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([round(each, 4) if isinstance(each, float) else each for each in row] for row in rows)


def draw(shares: list[dict]) -> None:
    """One map for each model: layers down, tokens across, the mean restored share as colour."""
    models = list(dict.fromkeys(row["model"] for row in shares))
    figure, axes = plt.subplots(1, len(models), figsize=(5.2 * len(models), 6.4), squeeze=False, layout="constrained")
    for axis, model in zip(axes[0], models, strict=True):
        rows = [row for row in shares if row["model"] == model]
        tokens = {row["position"]: row["token"] for row in rows}
        grid = np.full((rows[0]["n_layers"], len(tokens)), np.nan)
        for row in rows:
            grid[row["layer"], row["position"]] = row["mean"]
        image = axis.imshow(grid, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_xticks(range(len(tokens)), [token.strip() for token in tokens.values()], rotation=45, ha="right")
        axis.set_title(f"{model}, mean of {rows[0]['n']} pairs")
        axis.set_ylabel("layer whose output is patched")
    figure.colorbar(image, ax=axes[0].tolist(), label="restored share of the source's answer", shrink=0.7)
    figure.savefig(HERE / "patching.png", dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--db", type=Path, default=Path("patching.duckdb"))
    options = parser.parse_args()
    if options.command == "run":
        asyncio.run(run(options.url, options.db))
    else:
        table(options.db)


if __name__ == "__main__":
    main()
