"""Does a model, asked to judge, rank labelled replies as their writers do? On the judge's own labels, and on the metrics' check.

Settled beforehand: the rubrics, both sets of labels, and that the score is read from the probabilities of the ten digits, however
small these are (`judge.toml`).
"""

from pathlib import Path

from study.lab import Lab

JUDGE = Path("experiments/judge_agreement/judge.toml")
SETS = {"labels": ("--labels", "datasets/judge/labels.jsonl"), "metric_check": ()}
"""Set of labelled replies -> options that choose it; each has a database of its own."""

AGREEMENT = """
select trait, n_labels, n, n_high, n_low, spearman, spearman_low, spearman_high, auc, auc_low, auc_high
from judge_agreement join judges using (definition)
qualify row_number() over (partition by trait order by measured_at desc) = 1 order by trait"""
SPREAD = """
select j.trait, avg(s.value) as mean_score, stddev_samp(s.value) as sd_score, avg(s.mass) as mean_mass
from judgements s join judges j using (definition) group by j.trait"""


def measure(lab: Lab) -> None:
    with lab.serving("--max-model-len", "2048") as url:
        for name, options in SETS.items():
            judge = ("--judge", JUDGE, "--judge-url", url, "--judge-model", lab.model)
            asked = ("trait-client", "judge", "agreement", *options, *judge, "--db", database(lab, name))
            lab.run(*asked, may_be_partial=True)  # not every answer has a score


def report(lab: Lab) -> None:
    rows = []
    for name in SETS:
        spread = {row["trait"]: row for row in lab.sql(SPREAD, database(lab, name))}
        rows += [{"replies": name} | row | spread[row["trait"]] for row in lab.sql(AGREEMENT, database(lab, name))]
    lab.table("agreement", rows)


def database(lab: Lab, name: str) -> Path:
    """The database of one set."""
    return lab.work / f"{name}.duckdb"
