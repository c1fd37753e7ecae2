"""`trait-extract apply`: a vector of one model for another of the same shape."""

from pathlib import Path
from typing import Annotated

import typer
from trait_client.http import TraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import ApiKey, AsJson, out, print_json
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.storage import sha256_of, write_atomically
from trait_core.traits import default_traits_folder, find_trait
from trait_core.vectors.file import VectorFile
from trait_core.vectors.transfer import apply_to

from trait_extraction.cli import tables
from trait_extraction.cli.console import print_lines
from trait_extraction.cli.extract import Datasets
from trait_extraction.data.datasets import load_trait
from trait_extraction.interchange.transfer import measure_on


def apply_command(
    file: Annotated[Path, typer.Argument(help="A vector file of another model.")],
    url: Annotated[str, typer.Option(envvar="TRAIT_SERVICE_URL", help="The service of the model to apply it to.")] = (
        DEFAULT_URL
    ),
    api_key: ApiKey = None,
    datasets: Datasets = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Read the scenarios on this model, for its own evidence.")
    ] = True,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the applied files.")] = Path("applied"),
    register: Annotated[bool, typer.Option("--register", help="Register it with the service, as the trait.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that stands already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a file for the served model of a vector that another one gave, <out>/<trait>/<method>.safetensors.

    Both models are in its metadata. Width and number of layers must agree: a base model and its instruct model, say.

    Example: `trait-extract apply vectors/refusal/completions/mean_diff.safetensors --url http://127.0.0.1:8001`
    """
    vector = VectorFile.load(file)
    path = folder / vector.metadata.trait / f"{vector.metadata.method}.safetensors"
    if path.exists() and not force:
        raise InvalidRequestError(f"{path} stands already: --force replaces it", param="force")
    with TraitClient(url, api_key=api_key) as client:
        applied = apply_to(vector, client.info())
        source = applied.metadata.extracted_on
        if source is None:
            raise InvalidRequestError(f"{file} is for {applied.metadata.model} already, which is what is served")
        note = "not measured on this model: all evidence but the residual norms is the extraction model's"
        if measure:
            style = vector.metadata.style
            try:
                dataset = load_trait(find_trait(datasets or default_traits_folder(), vector.metadata.trait), style)
                applied = measure_on(client, applied, dataset)
                note = "measured on this model, on the scenarios that the directions were not fitted on"
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
    out.print(tables.vector_table(applied))
    print_lines(
        [
            f"extracted on {source.model}, applied to {applied.metadata.model}; {note}",
            f"{path}{f', registered as {name}' if name else ''}",
            sha256_of(data),
        ]
    )
