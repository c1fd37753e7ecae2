"""`trait-client vectors`: the service's registry of steering vectors."""

from pathlib import Path
from typing import Annotated

import typer

from trait_client.cli.console import CLI_RETRIES, Url
from trait_client.http import TraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import ApiKey, AsJson, out, plain, print_fields, print_json, print_table
from trait_core.errors import VectorFileError
from trait_core.schema import RESID_POST, SHA256_PREFIX, VectorInfo
from trait_core.storage import sha256_of, write_atomically
from trait_core.tables import Cell, Column, Shown, Table
from trait_core.vectors.controls import controls_of
from trait_core.vectors.file import VectorFile

app = typer.Typer(help="List, show, register, fetch and delete steering vectors.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name in the registry, for example refusal.")]


@app.command("list")
def list_vectors(
    controls: Annotated[
        bool, typer.Option("--controls", help="Also list the random directions that sweeps register as controls.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the registered vectors.

    Example: `trait-client vectors list`
    """
    with _client(url, api_key) as client:
        registered = client.vectors(controls=controls)
    if as_json:
        print_json({"vectors": [vector.model_dump(mode="json") for vector in registered]})
    elif not registered:
        out.print("no vectors are registered: see `trait-client vectors put --help`")
    else:
        print_table(_registry(registered))


@app.command()
def show(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show a vector's provenance and the evidence of each layer.

    Example: `trait-client vectors show refusal`
    """
    with _client(url, api_key) as client:
        vector = client.vector(name)
    if as_json:
        print_json(vector.model_dump(mode="json"))
        return
    print_fields(_provenance(vector))
    print_table(_evidence(vector))


@app.command()
def put(
    name: Name,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Vector file (safetensors).")],
    *,
    allow_other_model: Annotated[
        bool,
        typer.Option(
            "--allow-other-model", help="Accept a vector of another model with the same shape; this is recorded."
        ),
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Register a vector file under a name, replacing the vector that had it.

    Example: `trait-client vectors put refusal refusal.safetensors`
    """
    data = file.read_bytes()
    try:
        VectorFile.from_bytes(data)
    except VectorFileError as error:
        raise VectorFileError(f"{file}: {error}") from error
    with _client(url, api_key) as client:
        vector = client.put_vector(name, data, allow_other_model=allow_other_model)
    if as_json:
        print_json(vector.model_dump(mode="json"))
    else:
        out.print(plain(f"registered {vector.name} as {vector.sha256}"), soft_wrap=True)


@app.command()
def get(
    name: Name,
    file: Annotated[Path, typer.Argument(dir_okay=False, writable=True, help="File to write.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a vector's file, byte for byte.

    Example: `trait-client vectors get refusal refusal.safetensors`
    """
    with _client(url, api_key) as client:
        data = client.vector_bytes(name)
    VectorFile.from_bytes(data)
    write_atomically(file, data)
    sha256 = sha256_of(data)
    if as_json:
        print_json({"name": name, "sha256": sha256, "file": str(file), "bytes": len(data)})
    else:
        out.print(plain(f"wrote {file}, {len(data)} bytes, {sha256}"), soft_wrap=True)


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="The new name.")],
    vector: Annotated[str, typer.Argument(help="Registered name, or sha256:... of any version.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give a registered vector another name; the hash of an older version restores that version.

    Example: `trait-client vectors alias refusal-stable refusal`
    """
    with _client(url, api_key) as client:
        pointed = client.point_vector(name, vector)
    if as_json:
        print_json(pointed.model_dump(mode="json"))
    else:
        out.print(plain(f"{pointed.name} is {pointed.sha256}, version {pointed.version}"), soft_wrap=True)


@app.command()
def delete(
    name: Name,
    even_if_used: Annotated[
        bool, typer.Option("--even-if-used", help="Delete it even if requests are using it.")
    ] = False,
    only_controls: Annotated[
        bool,
        typer.Option(
            "--only-controls", help="Keep it, and delete the random directions that sweeps registered as its controls."
        ),
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Delete a vector, its versions and its controls; refused while requests are using it.

    Example: `trait-client vectors delete refusal`
    """
    with _client(url, api_key) as client:
        gone = _controls(client, name) if only_controls else [name]
        for each in gone:
            client.delete_vector(each, even_if_used=even_if_used)
    if as_json:
        print_json({"name": name, "deleted": not only_controls} | ({"controls": gone} if only_controls else {}))
    elif only_controls:
        out.print(plain(f"deleted {len(gone)} control directions of {name}; the next sweep makes them again"))
    else:
        out.print(plain(f"deleted {name}"))


def _controls(client: TraitClient, name: str) -> list[str]:
    """Names of a vector's controls, those of its earlier versions included."""
    vector = client.vector(name)
    hashes = {vector.sha256, *(version.sha256 for version in vector.versions)}
    return controls_of(hashes, [each.name for each in client.vectors(controls=True)])


def _client(url: str, api_key: str | None) -> TraitClient:
    return TraitClient(url, api_key, timeout=120, retries=CLI_RETRIES)


def _registry(registered: list[VectorInfo]) -> Table:
    columns = [
        Column("name"),
        Column("trait"),
        Column("method"),
        Column("positions", optional=True),
        Column("layer", right=True),
        Column("AUC", right=True),
        Column("sha256", optional=True),
    ]
    rows: list[list[Cell]] = []
    for vector in registered:
        meta, at = vector.metadata, vector.metadata.layers[vector.metadata.chosen_layer]
        short = vector.sha256.removeprefix(SHA256_PREFIX)[:12]
        described: list[Cell] = [
            vector.name,
            meta.trait,
            meta.method,
            meta.positions,
            str(meta.chosen_layer),
            _number(at.auc),
        ]
        rows.append([*described, Shown(short, vector.sha256)])
    return Table(columns, rows)


def _provenance(vector: VectorInfo) -> dict[str, str]:
    meta = vector.metadata
    pairs = f"{meta.n_positive} positive, {meta.n_negative} negative, {meta.n_held_out} held out"
    fields = {
        "vector": vector.name,
        "sha256": vector.sha256,
        "version": _versions(vector),
        "trait": meta.trait,
        "model": f"{meta.model} ({meta.n_layers} layers, d_model {meta.d_model})",
        "method": f"{meta.method} at {meta.positions}",
        "hook point": "" if meta.hook_point == RESID_POST else meta.hook_point,
        "examples": pairs if meta.n_positive is not None else "",
        "layer": f"{meta.chosen_layer}: {meta.chosen_because}",
        "created": meta.created or "",
    }
    return {label: value for label, value in fields.items() if value}


def _versions(vector: VectorInfo) -> str:
    before = [f"{version.version} {version.sha256}" for version in vector.versions if version.version != vector.version]
    return f"{vector.version}" + (f" (before: {', '.join(before)})" if before else "")


def _evidence(vector: VectorInfo) -> Table:
    layers = sorted(vector.metadata.layers.items())
    headings = ("layer", "separation", "centre", "residual norm", "accuracy", "AUC", "Cohen's d")
    rows = [
        [str(layer), *map(_number, (e.separation, e.centre, e.residual_norm, e.accuracy, e.auc, e.cohens_d))]
        for layer, e in layers
    ]
    chosen = [i for i, (layer, _) in enumerate(layers) if layer == vector.metadata.chosen_layer]
    return Table([Column(heading, right=True) for heading in headings], rows, marked=chosen)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
