"""`trait-service model`: fetch the bundled models and print their folders."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from trait_core.console import EXIT_FAILED, EXIT_USAGE, fail

from trait_service.models.bundled import MODELS, PROVENANCE, ModelError, fetch, resolve
from trait_service.paths import trait_home

app = typer.Typer(help="The models that come with trait-steering.", no_args_is_help=True)

Home = Annotated[
    Path | None, typer.Option(help="Folder of all stored files (default: $TRAIT_HOME, else ~/.cache/trait-steering).")
]
Name = Annotated[str, typer.Argument(help=f"One of {', '.join(MODELS)}.")]


@app.command("fetch")
def fetch_command(name: Name, home: Home = None) -> None:
    """Download a model and de-quantise it, unless that is done already."""
    folder = _fetch(name, home)
    typer.echo(f"model {name}: {folder}")


@app.command("path")
def path_command(name: Name, home: Home = None) -> None:
    """Print the folder of a model, and nothing else on stdout; fetch the model first if needed."""
    typer.echo(_fetch(name, home))


@app.command("list")
def list_command(home: Home = None) -> None:
    """List the models: size of the download, licence, and the folder of those that were fetched."""
    width = max(map(len, MODELS))
    for model in MODELS.values():
        folder = model.folder(home or trait_home())
        where = folder if (folder / PROVENANCE).is_file() else "not fetched"
        typer.echo(f"{model.name:<{width}} {model.megabytes:>4} MB  {model.licence:<30} {where}")


@app.command("quantize")
@app.command("quantise", hidden=True)
def quantize_command(
    model: Annotated[str, typer.Argument(help=f"A model folder, or one of {', '.join(MODELS)}.")],
    scheme: Annotated[str, typer.Option(help="w8a8 (INT8), w4a16 (INT4, groups of 64) or fp8.")],
    out: Annotated[Path, typer.Option(help="Folder of the quantised copy; must not exist.")],
) -> None:
    """Write a quantised copy of a model (compressed-tensors, without data), for `trait-service serve`."""
    _quiet()
    from trait_service.models.quantize import quantize  # noqa: PLC0415 - heavy

    try:
        quantize(Path(resolve(model)), scheme, out.expanduser(), report=lambda line: typer.echo(line, err=True))
    except ModelError as error:
        fail(error, label="trait-service")
    typer.echo(out)


def _fetch(name: str, home: Path | None) -> Path:
    _quiet()
    try:
        return fetch(name, home=home and home.expanduser(), report=lambda line: typer.echo(line, err=True))
    except ModelError as error:
        fail(error, EXIT_USAGE if name not in MODELS else EXIT_FAILED, label="trait-service")


def _quiet() -> None:
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' bars; read when tqdm is first imported


if __name__ == "__main__":
    app()
