"""`--when`: the condition of a steering term, such as `harmful@9>0.5`."""

from typing import Annotated

import typer

from trait_core.gate_text import parse_gate
from trait_core.schema import Gate

When = Annotated[
    str | None,
    typer.Option(
        "--when",
        metavar="VECTOR@LAYER>NUMBER",
        help="Steer only where the projection on a vector is past a bound, e.g. 'harmful@9>0.5'. The projection is centred: 0 is "
        "between the vector's training classes. @LAYER may be left out: the vector's chosen layer.",
    ),
]
WhenUnit = Annotated[
    str,
    typer.Option(
        help="Unit of the bound in --when: raw (residual units), or separation (0.5 is the mean of the vector's positive class)."
    ),
]

WhenHold = Annotated[
    str,
    typer.Option(
        help="How --when holds: token (each position by itself), latch (from the first position past the bound on), or prompt (the "
        "mean over the prompt decides for the reply). latch and prompt need a layer below the steered ones."
    ),
]


def parsed_gate(text: str | None, unit: str, hold: str) -> Gate | None:
    """The gate that the options describe; None without `--when`.

    Raises:
        InvalidRequestError: The text does not have the form, or the wire schema refuses a value.
    """
    return None if text is None else parse_gate(text, unit=unit, hold=hold)
