"""Run a study: `make study STUDY=jailbreak MODEL=smollm2`, or `python experiments/run.py jailbreak --model smollm2`.

`--report` makes its tables and plot anew; `--dry-run` prints what its sweeps would run.

A study starts the services that it needs, runs the commands that a user would type, and leaves its database in
`build/studies/<name>/results.duckdb`, its tables (CSV) and its plot in `experiments/<name>/`. What is in the database is not run
again: remove the folder under `build/` to begin anew. Another model than SmolLM2 has its definitions, tables and plot in
`experiments/<name>/<model>/`.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from scaling_model.model import MODELS, Load, Machine, read_calibration, requests_per_second, step
from study.lab import ROOT, SMALL, Lab

SIZES = {"meta-llama/Llama-3.1-8B-Instruct": "8B", "meta-llama/Llama-3.3-70B-Instruct": "70B"}
"""Models whose speed on H100s the cost model estimates."""

LOAD = Load(n_prompt=80, n_generated=48)
"""About a sweep's requests."""

STUDIES = sorted(path.parent.name for path in Path(__file__).parent.glob("*/study.py"))


def main() -> int:
    """Run the study; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--report", action="store_true", help="tables and plot from what is measured already")
    parser.add_argument("--model", default=SMALL, help="a bundled model, or a Hugging Face id")
    parser.add_argument("--dry-run", action="store_true", help="print what its sweeps would run")
    given = parser.parse_args()
    os.chdir(ROOT)
    lab, study = Lab(given.study, given.model), importlib.import_module(f"{given.study}.study")
    sweeps = [
        name for name in ("experiment.toml", "control.toml") if (ROOT / "experiments" / given.study / name).exists()
    ]
    if missing := [name for name in sweeps if not (lab.folder / name).exists()]:
        parser.error(
            f"{lab.folder.relative_to(ROOT)} has no {' and no '.join(missing)}: write the layers of {given.model} there"
        )
    if given.dry_run:
        for name in sweeps:
            lab.run("trait-client", "sweep", lab.folder / name, "--dry-run", "--db", lab.db, *rate(given.model))
        return 0
    lab.folder.mkdir(exist_ok=True)
    if not given.report:
        study.measure(lab)
    study.report(lab)
    return 0


def rate(model: str) -> tuple[str, ...]:
    """The option with the generated tokens a second that the cost model estimates; nothing for a model that it does not know."""
    size = next((each for each in MODELS if each.name == SIZES.get(model)), None)
    if size is None:
        return ()
    one = step(size, LOAD, Machine(), read_calibration(), "configurations_256")
    return ("--rate", f"{requests_per_second(size, LOAD, Machine(), one) * LOAD.n_generated:.0f}")


if __name__ == "__main__":
    sys.exit(main())
