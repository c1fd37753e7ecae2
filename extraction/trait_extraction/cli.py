"""`trait-extract`: vectors from contrastive datasets. Results on stdout, progress and errors on stderr."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from trait_client.errors import DatasetError, InvalidRequestError, TraitError
from trait_client.http import TraitClient
from trait_client.positions import Positions
from trait_client.schema import Generation
from trait_client.settings import DEFAULT_URL
from trait_client.vector_file import VectorFile, sha256_of

from trait_extraction import tables
from trait_extraction.activations import default_positions
from trait_extraction.datasets import TraitDataset, find_trait, list_traits, load_trait
from trait_extraction.methods import METHODS
from trait_extraction.pipeline import run as run_pipeline
from trait_extraction.vectors import Settings

FAILED, USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    help="Extract trait vectors: contrastive prompts -> captured activations -> vector files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out, _err = Console(), Console(stderr=True)

Datasets = Annotated[Path, typer.Option(help="Folder that holds <category>/<trait>.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DEFAULT_DATASETS = Path("datasets/traits")


def main() -> None:
    """Run the command line; expected errors become one line and an exit code."""
    try:
        app()
    except InvalidRequestError as error:
        sys.exit(_fail(error, USAGE))
    except (TraitError, OSError) as error:
        sys.exit(_fail(error, FAILED))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@app.command()
def run(
    trait: Annotated[list[str] | None, typer.Option(help="A trait, or <category>/<trait>; repeat for more.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every trait of the datasets.")] = False,
    method: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(METHODS)}; repeat for more. Default: mean_diff.")
    ] = None,
    url: Annotated[str, typer.Option(envvar="TRAIT_SERVICE_URL", help="The service.")] = DEFAULT_URL,
    api_key: Annotated[str | None, typer.Option(envvar="TRAIT_API_KEY", help="Its key, if it has one.")] = None,
    datasets: Datasets = DEFAULT_DATASETS,
    out: Annotated[Path, typer.Option(help="Folder of the vector files.")] = Path("vectors"),
    positions: Annotated[
        str | None, typer.Option(help="What is pooled. Default: response[:]; all[4:] for raw text.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the held-out split and of random directions.")] = 0,
    held_out: Annotated[float, typer.Option(help="Part of the scenarios to test on.")] = 0.25,
    max_tokens: Annotated[int, typer.Option(min=1, max=65536, help="Length of generated replies.")] = 64,
    allow_unchecked: Annotated[
        bool, typer.Option("--allow-unchecked", help="Use generated replies that nothing has checked for the trait.")
    ] = False,
    register: Annotated[bool, typer.Option(help="Register the vectors with the service.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Make files again that stand already.")] = False,
    as_json: Json = False,
) -> None:
    """Extract vectors, write <out>/<trait>/<method>.safetensors, register them as <trait> and <trait>.<method>."""
    if positions is not None:
        positions = str(Positions.parse(positions))
    loaded = [load_trait(folder) for folder in _chosen(datasets, trait, every=every)]
    generation = Generation(max_tokens=max_tokens, seed=seed)
    jobs = [(d, Settings(positions or default_positions(d), seed, held_out, generation)) for d in loaded]
    with TraitClient(url, api_key=api_key) as client, _progress() as report:
        results = run_pipeline(
            client,
            jobs,
            list(dict.fromkeys(method or ["mean_diff"])),
            out,
            register=register,
            force=force,
            allow_unchecked=allow_unchecked,
            report=report,
        )
    if as_json:
        _print_json([tables.result_row(r) for r in results])
    else:
        _out.print(tables.result_table(results))
        for line in tables.result_lines(results):
            _out.print(line, soft_wrap=True, highlight=False)


@app.command()
def check(
    trait: Annotated[list[str] | None, typer.Option(help="A trait; repeat for more. Default: all.")] = None,
    datasets: Datasets = DEFAULT_DATASETS,
    as_json: Json = False,
) -> None:
    """Check dataset folders; the first fault of each is told with file and line."""
    valid: list[TraitDataset] = []
    faults: list[str] = []
    for folder in _chosen(datasets, trait, every=not trait):
        try:
            valid.append(load_trait(folder))
        except DatasetError as error:
            faults.append(str(error))
    if as_json:
        _print_json({"valid": [tables.dataset_row(d) for d in valid], "faults": faults})
    elif valid:
        _out.print(tables.dataset_table(valid))
    for fault in faults:
        _fail(fault, FAILED)
    if faults:
        raise typer.Exit(FAILED)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A vector file.")],
    as_json: Json = False,
) -> None:
    """Show what is known of a vector file's directions, layer by layer."""
    vector = VectorFile.load(file)
    meta = vector.metadata
    sha256 = sha256_of(file.read_bytes())
    if as_json:
        _print_json({"sha256": sha256, **meta.model_dump()})
        return
    _out.print(tables.vector_table(vector))
    _out.print(f"{sha256}\nlayer {meta.chosen_layer}: {meta.chosen_because}", markup=False, highlight=False)


def _chosen(root: Path, traits: list[str] | None, *, every: bool) -> list[Path]:
    if every == bool(traits):
        raise InvalidRequestError("give --trait NAME (once or more) or --all", param="trait")
    return list_traits(root) if every else [find_trait(root, name) for name in dict.fromkeys(traits or [])]


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner where stderr is a terminal, else a line for each step."""
    if not _err.is_terminal:
        yield lambda line: _err.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    with _err.status("asking the service what it serves") as status:
        yield status.update


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _fail(error: object, code: int) -> int:
    _err.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
    return code
