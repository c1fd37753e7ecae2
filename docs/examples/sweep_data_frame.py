"""Sweep coefficients, read the results as a pandas data frame, and plot delta and coherence by coefficient.

The sweep is a small one, for a first look: two prompts, four coefficients, one random direction as a control. Its results
are in sweep.duckdb, and the plot in sweep.png, both in the current folder.

Needs pandas and matplotlib, and a running service with the vectors of `make demo` (trait-service serve smollm2 --vectors
demo/registry). TRAIT_SERVICE_URL is its address, by default http://127.0.0.1:8000.
"""

import subprocess
from pathlib import Path

import matplotlib as mpl
from trait_steering.results import cells_df, trials_df

EXPERIMENT = """
name = "data frame"
traits = ["refusal"]
layers = [13]
coefficients = [1.0, 2.0, 3.0, 5.0]
n_prompts = 2
max_tokens = 16
control = {random_directions = 1}
"""

Path("sweep.toml").write_text(EXPERIMENT, encoding="utf-8")
subprocess.run(["trait-client", "sweep", "sweep.toml", "--db", "sweep.duckdb"], check=True)

cells = cells_df("sweep.duckdb", where="measure = 'projection'", frame="pandas").sort_values("coefficient")
print(cells[["coefficient", "n", "baseline", "steered", "delta", "coherence", "verdict"]].to_string(index=False))
worst = trials_df("sweep.duckdb", where="kind = 'steered'", frame="pandas").nsmallest(1, "coherence").iloc[0]
print(f"\nthe least coherent reply, at coefficient {worst.coefficient}: {worst.reply!r}")

mpl.use("Agg")
axes = cells.plot(x="coefficient", y=["delta", "coherence"], subplots=True, marker="o", title="refusal, layer 13")
axes[0].figure.savefig("sweep.png")
print("sweep.png")
