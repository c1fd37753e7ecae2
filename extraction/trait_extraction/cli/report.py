"""`trait-extract report`: write a page for each trait."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from trait_client.http import TraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import ApiKey, out, print_table
from trait_core.errors import DatasetError
from trait_core.storage import write_atomically
from trait_core.traits import default_traits_folder, find_place
from trait_core.vectors.file import VectorFile

from trait_extraction.cli import tables
from trait_extraction.cli.selection import Datasets, load_place
from trait_extraction.data.datasets import TraitDataset
from trait_extraction.report import page, read_report
from trait_extraction.report.content import vector_folders

LENS_TOKENS = 24


def report_command(
    trait: Annotated[
        list[str] | None, typer.Argument(help="Traits, or `<trait>/<style>`. Default: all traits of the folder.")
    ] = None,
    vectors: Annotated[Path, typer.Option(help="Folder of vector files, as written by `run`.")] = Path("vectors"),
    datasets: Datasets = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the pages.")] = Path("reports"),
    lens: Annotated[
        bool,
        typer.Option("--lens", help="Add the tokens that a vector promotes and suppresses; asks the model's service."),
    ] = False,
    url: Annotated[
        str, typer.Option(envvar="TRAIT_SERVICE_URL", help="Address of the model's service, for --lens.")
    ] = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Write `<out>/<trait>.html`: evidence by layer and method, the two sides, nearest traits, extreme texts; needs no model, but for --lens."""
    folders = vector_folders(vectors)
    for name in trait or folders:
        report = read_report(name, folders, _dataset(datasets, name, folders))
        if lens:
            with TraitClient(url, api_key=api_key) as client:
                (read,) = client.lens(report.main, layers=[report.layer], top_k=LENS_TOKENS).layers
            report = replace(report, lens=read)
        path = folder / f"{name.replace('/', '.')}.html"
        write_atomically(path, page(report).encode())
        print_table(tables.report_table(report))
        out.print(str(path), markup=False, soft_wrap=True)


def _dataset(root: Path | None, name: str, folders: dict[str, Path]) -> TraitDataset | None:
    """The dataset in the vectors' style; None if it is missing or invalid, which the page reports."""
    files = sorted(folders[name].glob("*.safetensors")) if name in folders else []
    if not files:
        return None
    meta = VectorFile.load(files[0]).metadata
    try:
        return load_place(find_place(root or default_traits_folder(), meta.trait), meta.style)  # type: ignore[arg-type]
    except DatasetError:
        return None
