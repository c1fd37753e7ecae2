"""`--lens` and `--top-k`: what the model would say from some layers, token by token."""

import math
from typing import Annotated, Any

import typer

from trait_client.cli.console import checked
from trait_client.http.replies import ChatResult
from trait_core.errors import InvalidRequestError, SteeringFailedError
from trait_core.schema import LensGuess, Monitor, MonitoredChoice, StreamLens
from trait_core.tables import Column, Table

Lens = Annotated[
    str | None,
    typer.Option(
        "--lens",
        metavar="LAYERS",
        help="Also show what the model would say from these layers at each generated token, through its own norm and unembedding, "
        "e.g. 8,16.",
    ),
]
TopK = Annotated[int, typer.Option("--top-k", min=1, help="With --lens: tokens of each layer, the likeliest first.")]


def parsed_lens(text: str | None, top_k: int) -> Monitor | None:
    """The monitor that `--lens` asks for; None without it.

    Raises:
        InvalidRequestError: It is not a list of layers, or asks for too many tokens.
    """
    if text is None:
        return None
    try:
        layers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidRequestError(f"--lens {text!r} is not a list of layers such as 8,16", param="lens") from error
    return Monitor(lens=checked(StreamLens, layers=layers, top_k=top_k), tokens=True, bounds=[])


def lens_table(title: str, reply: ChatResult) -> Table | None:
    """Each generated token, and the likeliest tokens of each layer with their probabilities; None without a lens."""
    if reply.monitor is None:
        return None
    columns = [Column("token"), *(Column(f"layer {layer}") for layer in reply.monitor.lens_layers)]
    rows = [
        [repr(token), *("  ".join(map(_guess, guesses)) for guesses in layers)]
        for token, layers in _tokens(reply.monitor.choices)
    ]
    return Table(columns, rows, title=f"{title}: what the model would say from a layer, in place of each token")


def lens_json(reply: ChatResult) -> dict[str, Any] | None:
    """The same for a JSON document."""
    if reply.monitor is None:
        return None
    return {
        "layers": reply.monitor.lens_layers,
        "tokens": [
            {"token": token, "guesses": [[guess.model_dump() for guess in guesses] for guesses in layers]}
            for token, layers in _tokens(reply.monitor.choices)
        ],
    }


def _tokens(choices: list[MonitoredChoice]) -> list[tuple[str, list[list[LensGuess]]]]:
    """The reply's tokens, each with what the layers say in its place.

    Raises:
        SteeringFailedError: The service does not say.
    """
    if not choices:
        return []
    (choice,) = choices
    if choice.lens is None or choice.generated_tokens is None:
        raise SteeringFailedError(
            "a lens was asked for and the answer does not hold any: is the service older than this client?"
        )
    return list(zip(choice.generated_tokens, choice.lens, strict=True))


def _guess(guess: LensGuess) -> str:
    return f"{guess.text!r} {math.exp(guess.logprob):.2f}"
