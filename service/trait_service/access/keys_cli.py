"""`trait-service key`: make, list and revoke API keys."""

import os
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table
from trait_core.console import fail

from trait_service.access.keys import KeyFile, KeysError, Scope
from trait_service.paths import trait_home

app = typer.Typer(help="API keys of a service: only their hashes are kept.", no_args_is_help=True)

FileOption = Annotated[
    Path | None, typer.Option("--file", help="Keys file (default: $TRAIT_KEYS_FILE, else $TRAIT_HOME/keys.json).")
]
Name = Annotated[str, typer.Argument(help="Name of the key: a-z, 0-9, '_', '.', '-'.")]


@app.command("create")
def create(
    name: Name,
    scope: Annotated[
        list[str],
        typer.Option(help=f"What the key opens, of {', '.join(get_args(Scope))} (may be given several times)."),
    ],
    max_relative_dose: Annotated[float | None, typer.Option(min=0.0, help="Below the server's own limit.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="In place of the server's own limit.")] = None,
    file: FileOption = None,
) -> None:
    """Make a key and print it once; it cannot be shown again."""
    keys = KeyFile(_path(file))
    try:
        text = keys.create(name, scope, max_relative_dose, requests_per_minute)
    except KeysError as error:
        fail(error, label="trait-service")
    typer.echo(text)
    typer.echo(f"kept as a hash in {keys.path}: serve with --keys {keys.path}", err=True)


@app.command("list")
def list_command(file: FileOption = None) -> None:
    """List names, scopes and limits."""
    try:
        keys = KeyFile(_path(file)).read()
    except KeysError as error:
        fail(error, label="trait-service")
    table = Table("name", "scopes", "max dose", "requests / min", "created", box=None)
    for key in keys:
        limits = [str(limit) if limit is not None else "" for limit in (key.max_relative_dose, key.requests_per_minute)]
        table.add_row(key.name, ", ".join(sorted(key.scopes)), *limits, key.created)
    Console(soft_wrap=True).print(table)


@app.command("revoke")
def revoke(name: Name, file: FileOption = None) -> None:
    """Take a key out; a running service refuses it within a second or two."""
    try:
        KeyFile(_path(file)).revoke(name)
    except KeysError as error:
        fail(error, label="trait-service")


def _path(file: Path | None) -> Path:
    given = file or (Path(os.environ["TRAIT_KEYS_FILE"]) if os.environ.get("TRAIT_KEYS_FILE") else None)
    return (given or trait_home() / "keys.json").expanduser()
