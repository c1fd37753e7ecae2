"""`trait-client judge`: measure how good a judge is."""

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trait_client.cli.console import Datasets, progress_bar
from trait_client.cli.judge_options import JudgeOptions, judge_options, usage_text
from trait_core.console import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    AsJson,
    complain,
    fail,
    out,
    plain,
    print_json,
    print_table,
)
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.tables import Column, Table
from trait_core.traits import default_traits_folder

if TYPE_CHECKING:  # DuckDB takes a while to import
    from trait_client.judge import JudgeConfig, JudgeUsage, Rubric
    from trait_client.judge.labels import LabelledReply
    from trait_client.judge.measure import Measurement, TraitAgreement
    from trait_client.results import ResultStore

app = typer.Typer(no_args_is_help=True, help="Measure how good a judge is.", rich_markup_mode="markdown")


@app.callback()
def _group() -> None:
    pass


@app.command("agreement")
@judge_options
def agreement(
    *,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            exists=True,
            dir_okay=False,
            help="JSONL file; each line has trait, prompt, reply and label (0 to 100) [default: each trait's metric_check.jsonl].",
        ),
    ] = None,
    trait: Annotated[
        list[str] | None,
        typer.Option("--trait", "-t", help="Trait; may be repeated [default: every trait that has labels]."),
    ] = None,
    datasets: Datasets = None,
    db: Annotated[
        Path | None,
        typer.Option("--db", dir_okay=False, help="DuckDB file for judgements and the result [default: not stored]."),
    ] = None,
    as_json: AsJson = False,
    judge: JudgeOptions,
) -> None:
    """Judge labelled replies and measure the agreement: Spearman's rho and AUC with 95 % bootstrap intervals.

    Without `--labels` the replies are those that `check-metrics` scores: the judge and the metrics are measured on the same texts.
    They have no prompts. Replies that the judge does not score are left out; exit code 3 if there are any.

    Example: `trait-client judge agreement --labels datasets/judge/labels.jsonl --judge-url http://127.0.0.1:8000 --judge-model smollm2`
    """
    from trait_client.judge.rubric import COHERENCE, Rubric  # noqa: PLC0415
    from trait_client.results import ResultStore  # noqa: PLC0415

    config = judge.config(None)
    if config is None:
        raise InvalidRequestError("no judge: give --judge-url and --judge-model, or --judge FILE", param="judge")
    folder = datasets or default_traits_folder()
    given = _labels(folder, labels, trait)
    rubrics = {
        trait: Rubric.coherence() if trait == COHERENCE else Rubric.load(folder, trait)
        for trait in dict.fromkeys(label.trait for label in given)
    }
    try:
        found, usage = asyncio.run(_measure(config, given, rubrics, ResultStore(db) if db is not None else None))
    except KeyboardInterrupt:
        fail("interrupted" + (f": finished judgements are in {db}" if db is not None else ""), EXIT_INTERRUPTED)
    if as_json:
        print_json(_document(found, usage, config.model))
    else:
        _print(found, usage)
    for message, count in found.errors:
        complain(f"{count} x {message}")
    if found.errors:
        raise typer.Exit(EXIT_PARTIAL if any(each.agreement.n for each in found.traits) else EXIT_FAILED)


def _labels(folder: Path, path: Path | None, traits: list[str] | None) -> "list[LabelledReply]":
    """The labelled replies of a file, or of the traits' folders.

    Raises:
        DatasetError: A malformed file, or no labels for one of the traits.
    """
    from trait_client.judge.labels import read_labels  # noqa: PLC0415
    from trait_client.scoring.metric_check import checked_traits, labels_to_judge  # noqa: PLC0415 - loads a language detector

    if path is None:
        return [
            label for name in dict.fromkeys(traits or checked_traits(folder)) for label in labels_to_judge(folder, name)
        ]
    labels = read_labels(path)
    known = dict.fromkeys(label.trait for label in labels)
    if missing := [name for name in traits or () if name not in known]:
        raise DatasetError(f"{path}: no label for {', '.join(missing)}: it has {', '.join(known)}")
    return [label for label in labels if not traits or label.trait in traits]


async def _measure(
    config: "JudgeConfig", labels: "list[LabelledReply]", rubrics: "dict[str, Rubric]", store: "ResultStore | None"
) -> "tuple[Measurement, JudgeUsage]":
    from trait_client.judge.judge import judge_row  # noqa: PLC0415
    from trait_client.judge.measure import measure_agreement  # noqa: PLC0415
    from trait_client.judge.session import judging  # noqa: PLC0415

    with progress_bar() as show:
        async with judging(config, store) as asked:
            found = await measure_agreement(
                asked, labels, rubrics, lambda done, total: show(done, total, f"{done} of {total} replies")
            )
            usage = asked.usage
    if store is not None:
        with store.writer() as writer:
            writer.write([*(judge_row(config, rubric) for rubric in rubrics.values()), *found.rows])
    return found, usage


def _print(found: "Measurement", usage: "JudgeUsage") -> None:
    numbers = [Column(heading, right=True) for heading in ("n", "high/low", "Spearman", "AUC", "score, sd")]
    print_table(Table([Column("trait"), *numbers, Column("AUC is")], [_row(each) for each in found.traits]))
    out.print(plain(usage_text(usage)), soft_wrap=True)


def _row(each: "TraitAgreement") -> list[str]:
    result = each.agreement
    return [
        "coherence" if each.trait == "*" else each.trait,
        f"{result.n} of {each.n_labels}",
        f"{result.n_high}/{result.n_low}",
        f"{_number(result.spearman, '+.2f')} {_interval(result.spearman_interval, '+.2f')}",
        f"{_number(result.auc, '.2f')} {_interval(result.auc_interval, '.2f')}",
        f"{_number(each.mean_score, '.0f')}, {_number(each.sd_score, '.1f')}",
        result.verdict,
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(interval: tuple[float, float] | None, form: str) -> str:
    return "" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def _document(found: "Measurement", usage: "JudgeUsage", model: str) -> dict[str, Any]:
    traits = [
        dataclasses.asdict(each) | dataclasses.asdict(each.agreement) | {"verdict": each.agreement.verdict}
        for each in found.traits
    ]
    for each in traits:
        del each["agreement"]
    return {"model": model, "traits": traits, "errors": found.errors, "judge": dataclasses.asdict(usage)}
