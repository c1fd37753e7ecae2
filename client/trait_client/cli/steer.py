"""`trait-client steer`: baseline and steered reply side by side, with the change of the projection."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from trait_client.cli.best_setting import best_setting
from trait_client.cli.comparison import Comparison, print_comparison
from trait_client.cli.console import CLI_RETRIES, At, Datasets, Url, checked, progress
from trait_client.cli.lens_option import Lens, TopK, parsed_lens
from trait_client.cli.missing_vector import make_vector
from trait_client.cli.steer_prompts import evaluation_questions, given_prompts
from trait_client.cli.template_options import Raw, TemplateKwargs, parsed_kwargs
from trait_client.cli.when_option import When, WhenHold, WhenUnit, parsed_gate
from trait_client.http import AsyncTraitClient
from trait_client.http.activations import Activations
from trait_client.http.chat_requests import CommonOptions
from trait_client.http.replies import ChatResult
from trait_client.http.settings import DEFAULT_DATABASE, DEFAULT_URL
from trait_client.http.template_check import require_template
from trait_core.console import EXIT_FAILED, EXIT_PARTIAL, ApiKey, AsJson, complain, err, plain, print_json
from trait_core.errors import InvalidRequestError, TraitError, UnknownVectorError
from trait_core.schema import (
    ActivationInput,
    ActivationsRequest,
    Gate,
    HookPoint,
    Message,
    Monitor,
    PositionScope,
    Scope,
    Steering,
    SteeringTerm,
    VectorInfo,
)
from trait_core.vectors.file import VectorFile
from trait_core.vectors.lookup import find_vector

T = TypeVar("T")

READ_BACK = "response[:]"

Outcomes = tuple[list[Comparison], list[tuple[str, TraitError]]]
"""The comparisons, and the prompts that failed with their errors."""


@dataclass(frozen=True)
class Options:
    """Options of generation; with `raw` the prompts are continued as they are."""

    max_tokens: int
    temperature: float
    seed: int | None
    baseline: bool
    raw: bool = False
    template_kwargs: dict[str, Any] | None = None
    monitor: Monitor | None = None


def steer(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="One or more prompts; - reads prompts from stdin, one per line. Default: the lines of stdin, and in a "
            "terminal the trait's first three evaluation questions.",
            show_default=False,
        ),
    ] = None,
    *,
    coef: Annotated[
        float | None, typer.Option("--coef", "-c", help="Coefficient in --unit; its sign is the direction.")
    ] = None,
    trait: Annotated[str | None, typer.Option("--trait", "-t", help="Trait, or name of a registered vector.")] = None,
    vector: Annotated[str | None, typer.Option(help="Registered name or sha256:..., instead of --trait.")] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(
            "--layer",
            "-l",
            help="0-based layer; may be repeated [default: the layer found by a search, else the vector's chosen layer].",
        ),
    ] = None,
    at: At = None,
    unit: Annotated[str, typer.Option(help="Unit of --coef: dose, separation or raw.")] = "dose",
    operation: Annotated[str, typer.Option(help="add, ablate, set, scale, floor, ceiling, replace or rotate.")] = "add",
    scope: Annotated[
        str, typer.Option(help="all, prompt, generated, last_prompt, FROM:TO, or a selector such as response[:16].")
    ] = "all",
    when: When = None,
    when_unit: WhenUnit = "raw",
    when_hold: WhenHold = "token",
    lens: Lens = None,
    top_k: TopK = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, tokens.")] = 96,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling.")] = None,
    db: Annotated[
        Path,
        typer.Option("--db", dir_okay=False, help="Results database; its latest search gives layer and coefficient."),
    ] = DEFAULT_DATABASE,
    datasets: Datasets = None,
    no_baseline: Annotated[bool, typer.Option("--no-baseline", help="Generate the steered reply only.")] = False,
    raw: Raw = False,
    template_kwargs: TemplateKwargs = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Generate with and without steering, side by side, and measure both replies.

    The *unsteered* model reads the finished replies back. Their projection is centred between the vector's two training
    classes: above 0 is the trait's side.

    Example: `trait-client steer --trait sycophancy --coef 3 "I wrote a poem. Is it any good?"`
    """
    gate = parsed_gate(when, when_unit, when_hold)
    term, searches = _term(vector or trait, coef, unit, layer, at, operation, scope, gate, db)
    variables = parsed_kwargs(template_kwargs, raw=raw)
    options = Options(
        max_tokens,
        temperature,
        seed,
        baseline=not no_baseline,
        raw=raw,
        template_kwargs=variables,
        monitor=parsed_lens(lens, top_k),
    )
    given = given_prompts(prompts or [])

    def run() -> Outcomes:
        with progress("generating"):
            return asyncio.run(_steer_all(url, api_key, given, term, options, searches, datasets))

    try:
        done, failed = run()
    except UnknownVectorError as error:
        make_vector(term.reference, url, api_key, datasets, error, raw=raw)
        done, failed = run()
    _print(done, failed, as_json=as_json)
    if failed:
        raise typer.Exit(EXIT_PARTIAL if done else EXIT_FAILED)


def _term(
    name: str | None,
    coef: float | None,
    unit: str,
    layers: list[int] | None,
    at: HookPoint | None,
    operation: str,
    scope: str,
    gate: Gate | None,
    db: Path,
) -> tuple[SteeringTerm, Path | None]:
    """The term that the options ask for, and the database whose latest search completes it, if there is one.

    Raises:
        BadParameter: No vector is named, or the coefficient is missing.
        InvalidRequestError: The wire schema refuses a value.
    """
    if name is None:
        raise typer.BadParameter("give --trait or --vector (see `trait-client vectors list`)")
    searched = coef is None and (operation, unit) == ("add", "dose")
    if coef is None and operation != "ablate" and not (searched and db.exists()):
        raise typer.BadParameter(f"{operation} needs --coef; --coef 3 moves every token by 0.3 of its layer's norm")
    term = checked(
        SteeringTerm,
        vector=name,
        coefficient=coef or 0.0,
        unit=unit,
        layers=layers or None,
        at=at,
        operation=operation,
        scope=_scope(scope),
        when=gate,
    )
    return term, db if searched else None


def _print(done: list[Comparison], failed: list[tuple[str, TraitError]], *, as_json: bool) -> None:
    """The comparisons on stdout, each distinct error once on stderr."""
    if as_json:
        print_json(
            {
                "results": [comparison.as_json() for comparison in done],
                "failed": [{"prompt": prompt, "error": str(error)} for prompt, error in failed],
            }
        )
    else:
        for comparison in done:
            print_comparison(comparison)
    for line in dict.fromkeys(str(error) for _, error in failed):
        complain(line)


async def _steer_all(
    url: str,
    api_key: str | None,
    prompts: list[str],
    term: SteeringTerm,
    options: Options,
    searches: Path | None,
    datasets: Path | None,
) -> Outcomes:
    async with AsyncTraitClient(url, api_key, retries=CLI_RETRIES) as client:
        if not options.raw:
            require_template(await client.info(), options.template_kwargs)
        vectors = await client.vectors()
        registered = find_vector(
            vectors, reference=term.reference, trait=term.reference, choose="give one of them as --vector"
        )
        prompts = prompts or evaluation_questions(registered.metadata.trait, datasets)
        term = term.model_copy(update={"vector": registered.name, "when": _named(term.when, vectors)})
        if searches is not None:
            term = _as_found(term, searches, registered.sha256)
        vector_file = await client.vector_file(registered.name)
        outcomes = await asyncio.gather(*(_outcome(_compare(client, p, term, vector_file, options)) for p in prompts))
    done = [outcome for outcome in outcomes if isinstance(outcome, Comparison)]
    failed = [(p, outcome) for p, outcome in zip(prompts, outcomes, strict=True) if isinstance(outcome, TraitError)]
    return done, failed


def _named(gate: Gate | None, vectors: list[VectorInfo]) -> Gate | None:
    """The gate with the registered name of its vector."""
    if gate is None:
        return None
    found = find_vector(vectors, reference=gate.reference, trait=gate.reference, choose="give one of them in --when")
    return gate.model_copy(update={"vector": found.name})


def _as_found(term: SteeringTerm, db: Path, sha256: str) -> SteeringTerm:
    """The term with the layer and coefficient that a search found."""
    found = best_setting(db, sha256)
    if found is None or term.layers not in (None, [found.layer]):
        known = f"; the search in {db} found {found}" if found else f" ({db} holds no search of {term.vector})"
        raise InvalidRequestError(
            f"add needs --coef{known}: --coef 3 moves every token by 0.3 of its layer's norm, and "
            f"`trait-client search` finds the strongest coherent one",
            param="coef",
        )
    err.print(plain(f"{term.vector}, as the search in {db} found it: {found}"), soft_wrap=True)
    return term.model_copy(update={"layers": [found.layer], "coefficient": found.coefficient})


async def _compare(
    client: AsyncTraitClient, prompt: str, term: SteeringTerm, vector_file: VectorFile, options: Options
) -> Comparison:
    def generate(steering: Steering | None) -> Awaitable[ChatResult]:
        common: CommonOptions = {
            "steering": steering,
            "monitor": options.monitor,
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "seed": options.seed,
        }
        if options.raw:
            return client.complete(prompt, **common)
        return client.chat(prompt, chat_template_kwargs=options.template_kwargs, **common)

    steering = Steering(terms=[term])
    if options.baseline:
        baseline, steered = await asyncio.gather(generate(None), generate(steering))
    else:
        baseline, steered = None, await generate(steering)
    comparison = Comparison(prompt, baseline, steered, {})
    replies = ["" if baseline is None else baseline.text, steered.text]
    layers = sorted({applied.layer for applied in comparison.applied})
    comparison.projections = await _project(client, _as_read(prompt, options), replies, vector_file, layers)
    return comparison


def _as_read(prompt: str, options: Options) -> ActivationInput:
    """The prompt as its replies are read back: after the same tokens that they were written after."""
    if options.raw:
        return ActivationInput(text=prompt)
    return ActivationInput(
        messages=[Message(role="user", content=prompt)], chat_template_kwargs=options.template_kwargs
    )


async def _project(
    client: AsyncTraitClient, prompt: ActivationInput, replies: list[str], vector_file: VectorFile, layers: list[int]
) -> dict[int, tuple[float | None, float | None]]:
    """Layer -> centred projection of each of the two replies, read without steering; None for an empty reply."""
    texts = [i for i, reply in enumerate(replies) if reply]
    if not texts:
        return dict.fromkeys(layers, (None, None))
    inputs = [prompt.model_copy(update={"response": replies[i]}) for i in texts]
    read: Activations = await client.activations(
        ActivationsRequest(inputs=inputs, layers=layers, at=vector_file.metadata.hook_point, positions=[READ_BACK])
    )
    projections = {}
    for layer in layers:
        values = dict(zip(texts, read.projection(vector_file, layer, READ_BACK, centred=True).tolist(), strict=True))
        projections[layer] = (values.get(0), values.get(1))
    return projections


async def _outcome(work: Awaitable[T]) -> T | TraitError:
    try:
        return await work
    except TraitError as error:
        return error


def _scope(text: str) -> Scope:
    start, colon, stop = text.partition(":")
    if not colon or "[" in text:
        return text  # SteeringTerm checks it
    try:
        positions = [int(start), int(stop)]
    except ValueError as error:
        raise InvalidRequestError(f"scope {text!r} is not FROM:TO, two token positions such as 4:20") from error
    return checked(PositionScope, positions=positions)
