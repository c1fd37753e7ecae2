"""`trait-client check-metrics`: measure the traits' metrics against labelled replies."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trait_client.cli.console import Datasets
from trait_core.console import AsJson, complain, out, plain, print_json, print_table
from trait_core.errors import DatasetError
from trait_core.storage import write_atomically
from trait_core.tables import Column, Table
from trait_core.traits import default_traits_folder

if TYPE_CHECKING:  # the language detector takes a while to import
    from trait_client.scoring.metric_check import MetricCheck


def check_metrics(
    *,
    trait: Annotated[
        list[str] | None,
        typer.Option(
            "--trait", "-t", help="Trait; may be repeated [default: every trait that has metric_check.jsonl]."
        ),
    ] = None,
    datasets: Datasets = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            exists=True,
            dir_okay=False,
            help="Score the replies of this file instead (trait, prompt, reply, label, as for `judge agreement`); a label "
            "above 50 shows the trait, and 50 is left out.",
        ),
    ] = None,
    missed: Annotated[
        bool, typer.Option("--missed", help="Also print the replies whose score is not on their label's side of 50.")
    ] = False,
    table: Annotated[
        Path | None, typer.Option("--table", dir_okay=False, help="Also write the numbers to this .csv file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure lexical metrics against labelled replies: AUC with a 95 % bootstrap interval, hits and false alarms.

    The replies are in `metric_check.jsonl` in the trait's folder. A hit is a reply that shows the trait and scores above 50; a
    false alarm is another reply above 50. No service is contacted.

    Example: `trait-client check-metrics --trait refusal --missed`
    """
    folder = datasets or default_traits_folder()
    checks = _by_labels(folder, labels, trait) if labels is not None else _by_trait(folder, trait)
    for sentence in _unfrozen(folder, [check.trait for check in checks]):
        complain(sentence, label="warning")
    if table is not None:
        write_atomically(table, table_csv(checks).encode())
    if as_json:
        print_json([_document(check, missed=missed) for check in checks])
        return
    _print(checks)
    if missed:
        _print_missed(checks)


def _by_trait(folder: Path, traits: list[str] | None) -> "list[MetricCheck]":
    from trait_client.scoring.metric_check import check_metric, checked_traits  # noqa: PLC0415 - as above

    return [check_metric(folder, name) for name in dict.fromkeys(traits or checked_traits(folder))]


def _by_labels(folder: Path, path: Path, traits: list[str] | None) -> "list[MetricCheck]":
    from trait_client.judge.labels import read_labels  # noqa: PLC0415 - as above
    from trait_client.scoring.metric_check import check_by_labels  # noqa: PLC0415

    labels = [label for label in read_labels(path) if traits is None or label.trait in traits]
    checks = check_by_labels(folder, labels)
    if not checks:
        raise DatasetError(
            f"{path}: has no label for {', '.join(traits or ['any trait'])} with a metric: choose another"
        )
    return checks


def _unfrozen(folder: Path, traits: Sequence[str]) -> list[str]:
    from trait_client.scoring.frozen import changes, read_frozen  # noqa: PLC0415 - as above

    path = folder.parent / "frozen.json"
    return changes(folder, read_frozen(path), traits) if path.is_file() else []


def table_csv(checks: "Sequence[MetricCheck]") -> str:
    """CSV with one row per trait: counts, AUC with its interval, mean scores, hits and false alarms."""
    text = io.StringIO()
    rows = [{key: _rounded(value) for key, value in _numbers(check).items()} for check in checks]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _numbers(check: "MetricCheck") -> dict[str, Any]:
    found = check.agreement
    low, high = found.auc_interval or (None, None)
    return {
        "trait": check.trait,
        "metric": check.kind,
        "n_shows": found.n_high,
        "n_not": found.n_low,
        "auc": found.auc,
        "auc_low": low,
        "auc_high": high,
        "mean_shows": fmean(check.scores(shows=True)),
        "mean_not": fmean(check.scores(shows=False)),
        "hits": check.n_above(shows=True),
        "false_alarms": check.n_above(shows=False),
    }


def _rounded(value: float | str) -> float | str:
    return round(value, 3) if isinstance(value, float) else value


def _document(check: "MetricCheck", *, missed: bool) -> dict[str, Any]:
    replies = [{"text": each.text, "shows": each.shows, "score": each.score} for each in check.missed]
    return _numbers(check) | {"verdict": check.agreement.verdict} | ({"missed": replies} if missed else {})


def _print(checks: "Sequence[MetricCheck]") -> None:
    headings = ("replies +/-", "AUC", "95 %", "mean +/-", "hits", "false alarms")
    columns = [Column("trait"), Column("metric", optional=True), *(Column(each, right=True) for each in headings)]
    print_table(Table([*columns, Column("AUC is")], [_row(check) for check in checks]))


def _row(check: "MetricCheck") -> list[str]:
    at = _numbers(check)
    return [
        at["trait"],
        at["metric"],
        f"{at['n_shows']}/{at['n_not']}",
        f"{at['auc']:.2f}",
        f"{at['auc_low']:.2f} to {at['auc_high']:.2f}",
        f"{at['mean_shows']:.0f}/{at['mean_not']:.0f}",
        f"{at['hits']}",
        f"{at['false_alarms']}",
        check.agreement.verdict,
    ]


def _print_missed(checks: "Sequence[MetricCheck]") -> None:
    for check in checks:
        for reply in check.missed:
            label = "shows the trait" if reply.shows else "does not show it"
            out.print(plain(f"{check.trait}, {label}, score {reply.score:.0f}: {reply.text}"), soft_wrap=True)
