"""`--when`: the condition of a steering term, such as `harmful@9>0.5`."""

import re
from typing import Annotated

import typer

from trait_client.cli.console import checked
from trait_core.errors import InvalidRequestError
from trait_core.schema import Gate

FORM = "VECTOR@LAYER>NUMBER or VECTOR@LAYER<NUMBER, for example harmful@9>0.5"

_WHEN = re.compile(r"\s*(?P<vector>[^@<>\s]+)\s*(?:@\s*(?P<layer>\d+))?\s*(?P<side>[<>])\s*(?P<bound>\S+)\s*")

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
    if text is None:
        return None
    found = _WHEN.fullmatch(text)
    try:
        bound = float(found["bound"]) if found else None
    except ValueError:
        bound = None
    if found is None or bound is None:
        raise InvalidRequestError(f"when {text!r} is refused: write {FORM}", param="when")
    side = "above" if found["side"] == ">" else "below"
    layer = None if found["layer"] is None else int(found["layer"])
    return checked(Gate, vector=found["vector"], layer=layer, unit=unit, hold=hold, **{side: bound})
