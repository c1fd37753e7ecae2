"""Run a study: `make study STUDY=jailbreak`, or `python experiments/run.py jailbreak`; `--report` makes its tables and plot anew.

A study starts the services that it needs, runs the commands that a user would type, and leaves its database in
`build/studies/<name>/results.duckdb`, its tables (CSV) and its plot in `experiments/<name>/`. What is in the database is not run
again: remove the folder under `build/` to begin anew.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from study.lab import ROOT, Lab

STUDIES = sorted(path.parent.name for path in Path(__file__).parent.glob("*/study.py"))


def main() -> int:
    """Run the study; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--report", action="store_true", help="tables and plot from what is measured already")
    given = parser.parse_args()
    os.chdir(ROOT)
    lab, study = Lab(given.study), importlib.import_module(f"{given.study}.study")
    if not given.report:
        study.measure(lab)
    study.report(lab)
    return 0


if __name__ == "__main__":
    sys.exit(main())
