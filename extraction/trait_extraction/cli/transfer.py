"""`trait-extract apply`: adapt a vector of one model to another model of the same shape."""

from pathlib import Path
from typing import Annotated

import typer
from trait_client.http import TraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import ApiKey, AsJson, print_json, print_table
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.storage import sha256_of, write_atomically
from trait_core.traits import default_traits_folder, find_place
from trait_core.vectors.file import VectorFile
from trait_core.vectors.transfer import apply_to

from trait_extraction.cli import tables
from trait_extraction.cli.console import print_lines
from trait_extraction.cli.selection import Datasets, load_place
from trait_extraction.interchange.transfer import measure_on


def apply_command(
    file: Annotated[Path, typer.Argument(help="Vector file of another model.")],
    url: Annotated[str, typer.Option(envvar="TRAIT_SERVICE_URL", help="Address of the target model's service.")] = (
        DEFAULT_URL
    ),
    api_key: ApiKey = None,
    datasets: Datasets = None,
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Read the scenarios on the target model to measure its evidence."),
    ] = True,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the new files.")] = Path("applied"),
    register: Annotated[
        bool, typer.Option("--register", help="Register the vector with the service under the trait's name.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Apply a vector of another model to the served model, and write `<out>/<trait>/<method>.safetensors`.

    Its metadata name both models. Width and number of layers must agree, as for a base model and its instruct model.

    Example: `trait-extract apply vectors/refusal/completions/mean_diff.safetensors --url http://127.0.0.1:8001`
    """
    vector = VectorFile.load(file)
    path = folder / vector.metadata.trait / f"{vector.metadata.method}.safetensors"
    if path.exists() and not force:
        raise InvalidRequestError(f"{path} already exists: --force overwrites it", param="force")
    with TraitClient(url, api_key=api_key) as client:
        applied = apply_to(vector, client.info())
        source = applied.metadata.extracted_on
        if source is None:
            raise InvalidRequestError(f"{file} is already for {applied.metadata.model}, the served model")
        note = "not measured on this model: all evidence except the residual norms is the extraction model's"
        if measure:
            style = vector.metadata.style
            try:
                dataset = load_place(find_place(datasets or default_traits_folder(), vector.metadata.trait), style)
                applied = measure_on(client, applied, dataset)
                note = "measured on this model, on the scenarios that were not used to fit the directions"
            except (DatasetError, InvalidRequestError) as error:
                note = f"{note} ({error})"
        data = applied.to_bytes()
        write_atomically(path, data)
        name = vector.metadata.trait if register else None
        if name is not None:
            client.put_vector(name, data)
    if as_json:
        print_json({"path": str(path), "sha256": sha256_of(data), "registered": name, **applied.metadata.model_dump()})
        return
    print_table(tables.vector_table(applied))
    print_lines(
        [
            f"extracted on {source.model}, applied to {applied.metadata.model}; {note}",
            f"{path}{f', registered as {name}' if name else ''}",
            sha256_of(data),
        ]
    )
