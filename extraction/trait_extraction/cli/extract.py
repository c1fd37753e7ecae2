"""`trait-extract run`, `check` and `show`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from trait_client.cli.judge_options import JudgeOptions, judge_options, usage_text
from trait_client.cli.template_options import TemplateKwargs, parsed_kwargs
from trait_client.http import TraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_client.judge import JudgeConfig, TraitJudge
from trait_client.results import ResultStore
from trait_core.console import ApiKey, AsJson, complain, err, out, plain, print_json, print_table
from trait_core.errors import InvalidRequestError
from trait_core.positions import Positions
from trait_core.schema import RESID_POST, Generation, HookPoint
from trait_core.storage import sha256_of, write_atomically
from trait_core.vectors.file import VectorFile

from trait_extraction.cli import tables
from trait_extraction.cli.console import print_lines, progress
from trait_extraction.cli.csv_table import evidence_csv
from trait_extraction.cli.selection import Datasets, TraitNames, Unusable, select, select_styles
from trait_extraction.cli.similarity import similarity_table
from trait_extraction.data.balance import NOT_CLASSIFIED, measure_balance
from trait_extraction.data.scenarios import Style
from trait_extraction.extra import is_installed, require
from trait_extraction.fitting.geometry import cross_layer_cosines
from trait_extraction.fitting.methods import METHODS
from trait_extraction.pipeline import RunOptions, calibrated, run_all
from trait_extraction.plan import Settings, default_max_tokens, default_positions
from trait_extraction.reading.reply_check import ReplyCheck, ReplyJudge


@judge_options
def run(
    trait: TraitNames = None,
    every: Annotated[bool, typer.Option("--all", help="Extract every trait of the datasets.")] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(METHODS)}; may be repeated, or all. Default: mean_diff."),
    ] = None,
    style: Annotated[
        Style | None,
        typer.Option(
            help="written: the dataset's replies. instructed: the model replies under opposite system prompts. completions: "
            "raw text for base models. continued: a base model continues the raw text, and its continuation is read. Default: the "
            "first of written, instructed and completions that the trait has."
        ),
    ] = None,
    url: Annotated[str, typer.Option(envvar="TRAIT_SERVICE_URL", help="Address of the service.")] = DEFAULT_URL,
    api_key: ApiKey = None,
    datasets: Datasets = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the vector files.")] = Path("vectors"),
    positions: Annotated[
        str | None,
        typer.Option(
            help="Token positions to pool. Default: response[:]; response[:5] for continuations, all[4:] for whole raw texts."
        ),
    ] = None,
    at: Annotated[
        HookPoint,
        typer.Option(
            help="Place in a block that is read: resid_post, attn_out or mlp_out (what its attention or MLP adds; the service needs "
            "--hook-points). Vectors of the latter two are `<trait>.<method>.<place>`."
        ),
    ] = RESID_POST,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the held-out split and of random directions.")] = 0,
    held_out: Annotated[float, typer.Option(help="Fraction of the scenarios held out for testing.")] = 0.25,
    splits: Annotated[
        int, typer.Option(min=1, max=256, help="Number of repeated splits and fits, for the intervals.")
    ] = 8,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=65536, help="Longest generated reply, tokens. Default: 64; 16 for continuations."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=10, help="Temperature of generated replies; 0 takes the likeliest token.")
    ] = 0.0,
    samples: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Continuations of each text (--style continued), at a temperature above 0."),
    ] = 1,
    template_kwargs: TemplateKwargs = None,
    clean: Annotated[
        Literal["massive"] | None,
        typer.Option(
            help="massive: also make each vector without the few dimensions that lie far above the rest on every text, as "
            "`<trait>.<method>.clean`. They are found once for a model."
        ),
    ] = None,
    allow_unchecked: Annotated[
        bool,
        typer.Option(
            "--allow-unchecked", help="Use generated replies even if they fail the check or cannot be checked."
        ),
    ] = False,
    unvetted: Annotated[
        bool, typer.Option("--unvetted", hidden=True, help="Former name of --allow-unchecked.")
    ] = False,
    db: Annotated[
        Path | None,
        typer.Option(
            help="Results database: its sweeps choose the best-steering layer, and the evidence is stored in it."
        ),
    ] = None,
    register: Annotated[bool, typer.Option(help="Register the vectors with the service.")] = True,
    table: Annotated[
        Path | None,
        typer.Option(help="Also write the evidence at the chosen layers, with intervals, to this .csv file."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make existing files again.")] = False,
    as_json: AsJson = False,
    *,
    judge: JudgeOptions,
) -> None:
    """Extract vectors, write `<out>/<trait>/<method>.safetensors`, register them as `<trait>` and `<trait>.<method>`.

    Generated replies (--style instructed, continued) are checked with the trait's metric, and with a judge if the options name
    one. All traits go through the model together; a run that is stopped continues with the same command.
    """
    require("sklearn", "scikit-learn", "trait-extract run")
    if clean is not None and at != RESID_POST:
        raise InvalidRequestError(
            f"--clean {clean} knows the dimensions of the stream only: leave it out, or --at {at}"
        )
    pool = None if positions is None else Positions.parse(positions)
    selection = select(datasets, trait, style, every=every)
    selection.warn()
    variables = parsed_kwargs(template_kwargs)
    jobs = []
    for dataset in selection.datasets:
        generation = Generation(
            max_tokens=max_tokens or default_max_tokens(dataset), temperature=temperature, seed=seed
        )
        read = pool or default_positions(dataset)
        jobs.append((dataset, Settings(read, seed, held_out, splits, generation, variables, samples, at=at)))
    results = None if db is None else ResultStore(db)
    with (
        TraitClient(url, api_key=api_key) as client,
        reply_judge(judge.config(None), datasets) as rater,
        progress() as report,
    ):
        reply_check = ReplyCheck(rater, allow_unchecked or unvetted)
        options = RunOptions(register=register, force=force, check=reply_check, results=results, report=report)
        outcome = run_all(client, jobs, chosen_methods(method), folder, options)
        if clean is not None and outcome.extracted:  # its activations are stored by now
            massive = calibrated(client, folder, options)
            report(massive.sentence())
            failed = {one.name for one in outcome.failed}
            cleaned = [(d, replace(settings, massive=massive)) for d, settings in jobs if d.name not in failed]
            outcome = outcome.joined(run_all(client, cleaned, chosen_methods(method), folder, options))
    if len(jobs) == 1 and outcome.failed:
        raise outcome.failed[0].error
    extracted = outcome.extracted
    if table is not None:
        write_atomically(table, evidence_csv([e.vector.metadata for e in extracted]).encode())
    if as_json:
        print_json([tables.result_row(r) for r in extracted])
    else:
        print_table(tables.result_table(extracted))
        print_lines([*tables.result_lines(extracted), str(outcome.tally)])
    selection.finish([Unusable(one.name, str(one.error)) for one in outcome.failed])


@contextmanager
def reply_judge(config: JudgeConfig | None, datasets: Path | None) -> Iterator[ReplyJudge | None]:
    """The configured judge as a check of replies, with its usage on stderr at the end; None without a configuration.

    Raises:
        InvalidRequestError: The environment variable of the judge's key is not set.
    """
    if config is None:
        yield None
        return
    with TraitJudge(config, datasets) as judge:
        yield ReplyJudge(judge.name, judge, config.concurrency)
        if judge.usage.judged:
            err.print(plain(usage_text(judge.usage)), soft_wrap=True)


def check(
    trait: TraitNames = None,
    style: Annotated[
        Style | None,
        typer.Option(
            help="Check this style only; completions are derived if none are written. Default: all styles of the trait."
        ),
    ] = None,
    datasets: Datasets = None,
    as_json: AsJson = False,
) -> None:
    """Check trait datasets, all unless some are named, in every style; what cannot be used is listed with file and line.

    For valid datasets, the balance of the two sides is measured: length, shared words, and how well words alone
    distinguish them. For the instructed style the system prompts are compared, because there are no replies yet. A
    warning is not a fault.
    """
    selection = select_styles(datasets, trait, style)
    balances = [(dataset, measure_balance(dataset)) for dataset in selection.datasets]
    if as_json:
        rows = [tables.dataset_row(d) | {"balance": tables.balance_row(d, b)} for d, b in balances]
        print_json({"valid": rows, "faults": [one.reason for one in selection.unusable]})
    elif balances:
        print_table(tables.dataset_table(balances))
        print_lines(tables.balance_lines(balances))
    if balances and not is_installed("sklearn"):
        complain(NOT_CLASSIFIED, label="note")
    selection.warn()
    selection.finish()


def show(
    file: Annotated[Path, typer.Argument(help="Vector file (safetensors).")],
    as_json: AsJson = False,
) -> None:
    """Show the evidence for a vector file's directions, layer by layer."""
    vector = VectorFile.load(file)
    meta = vector.metadata
    sha256 = sha256_of(file.read_bytes())
    if as_json:
        layers, cosines = cross_layer_cosines(vector.directions)
        between = {"layers": layers, "cosines": cosines.round(4).tolist()}
        print_json({"sha256": sha256, **meta.model_dump(), "cross_layer": between})
        return
    print_table(tables.vector_table(vector))
    if len(vector.directions) > 1:
        print_table(similarity_table(vector))
    print_lines(tables.vector_lines(vector))
    out.print(f"{sha256}\nlayer {meta.chosen_layer}: {meta.chosen_because}", markup=False)


def chosen_methods(methods: list[str] | None) -> list[str]:
    """The named methods without repeats; `all` means every method."""
    named = methods or ["mean_diff"]
    return list(dict.fromkeys(name for given in named for name in (METHODS if given == "all" else [given])))
