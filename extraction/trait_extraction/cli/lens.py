"""`trait-extract lens`: the tokens that a vector promotes and suppresses."""

from pathlib import Path
from typing import Annotated

import typer
from trait_client.http import TraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import ApiKey, AsJson, print_json, print_table
from trait_core.schema import MAX_LENS_TOKENS, SHA256_PREFIX, LayerLens, LensToken, is_name
from trait_core.tables import Column, Table
from trait_core.vectors.file import VectorFile

from trait_extraction.cli.console import print_lines

MEANING = (
    "z: distance of the token's logit from the mean over the vocabulary, in standard deviations; on SmolLM2, random directions "
    "move the most extreme token by 4.8 on average. The direction goes through the final norm and the unembedding alone: what later layers make "
    "of it is not seen"
)


def lens_command(
    vector: Annotated[str, typer.Argument(help="Name or sha256:... of a registered vector, or a vector file.")],
    layer: Annotated[
        list[int] | None,
        typer.Option("--layer", min=0, help="0-based decoder block; may be repeated. Default: the chosen layer."),
    ] = None,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, max=MAX_LENS_TOKENS, help="Number of tokens at either end.")
    ] = 20,
    url: Annotated[str, typer.Option(envvar="TRAIT_SERVICE_URL", help="Address of the model's service.")] = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the tokens that a vector promotes and suppresses, through the model's own final norm and unembedding.

    Example: `trait-extract lens refusal --layer 20 --top-k 10`
    """
    registered = vector.startswith(SHA256_PREFIX) or (is_name(vector) and not Path(vector).is_file())
    with TraitClient(url, api_key=api_key) as client:
        read = client.lens(vector if registered else VectorFile.load(vector), layers=layer, top_k=top_k)
    if as_json:
        print_json(read.model_dump())
        return
    for at in read.layers:
        print_table(lens_table(read.trait, at))
    print_lines([MEANING, read.sha256])


def lens_table(trait: str, at: LayerLens) -> Table:
    """Table of one layer's tokens; a text is quoted, since spaces are part of it."""
    rows = [
        [*_token(promoted), *_token(suppressed)]
        for promoted, suppressed in zip(at.promoted, at.suppressed, strict=True)
    ]
    columns = [Column("promoted"), Column("z", right=True), Column("suppressed"), Column("z", right=True)]
    return Table(columns, rows, title=f"{trait}, layer {at.layer}")


def _token(token: LensToken) -> tuple[str, str]:
    return repr(token.text), f"{token.z:+.2f}"
