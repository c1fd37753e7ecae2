"""`trait-service key`: make, list and revoke API keys."""

import os
from pathlib import Path
from typing import Annotated, get_args

import typer
from trait_core.console import fail, print_table
from trait_core.tables import Column, Table

from trait_service.access.keys import KeyFile, KeysError, Scope
from trait_service.paths import trait_home

app = typer.Typer(help="API keys of a service: only their hashes are stored.", no_args_is_help=True)

FileOption = Annotated[
    Path | None, typer.Option("--file", help="Keys file (default: $TRAIT_KEYS_FILE, else $TRAIT_HOME/keys.json).")
]
Name = Annotated[str, typer.Argument(help="Name of the key: a-z, 0-9, '_', '.', '-'.")]


@app.command("create")
def create(
    name: Name,
    scope: Annotated[
        list[str],
        typer.Option(help=f"Scope of the key, one of {', '.join(get_args(Scope))} (may be given several times)."),
    ],
    max_relative_dose: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest relative dose for this key, if lower than the server's limit."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Replaces the server's limit for this key.")
    ] = None,
    file: FileOption = None,
) -> None:
    """Make a key and print it once; it cannot be shown again."""
    keys = KeyFile(_path(file))
    try:
        text = keys.create(name, scope, max_relative_dose, requests_per_minute)
    except KeysError as error:
        fail(error, label="trait-service")
    typer.echo(text)
    typer.echo(f"stored as a hash in {keys.path}: serve with --keys {keys.path}", err=True)


@app.command("list")
def list_command(file: FileOption = None) -> None:
    """List names, scopes and limits."""
    try:
        keys = KeyFile(_path(file)).read()
    except KeysError as error:
        fail(error, label="trait-service")
    rows = []
    for key in keys:
        limits = [str(limit) if limit is not None else "" for limit in (key.max_relative_dose, key.requests_per_minute)]
        rows.append([key.name, ", ".join(sorted(key.scopes)), *limits, key.created])
    columns = [Column("name"), Column("scopes"), Column("max dose", right=True), Column("requests / min", right=True)]
    print_table(Table([*columns, Column("created")], rows))


@app.command("revoke")
def revoke(name: Name, file: FileOption = None) -> None:
    """Remove a key; a running service refuses it within a second or two."""
    try:
        KeyFile(_path(file)).revoke(name)
    except KeysError as error:
        fail(error, label="trait-service")


def _path(file: Path | None) -> Path:
    given = file or (Path(os.environ["TRAIT_KEYS_FILE"]) if os.environ.get("TRAIT_KEYS_FILE") else None)
    return (given or trait_home() / "keys.json").expanduser()
