"""`trait-extract import` and `export`: convert vectors from and to other tools' formats."""

from pathlib import Path
from typing import Annotated

import typer
from trait_client.http import TraitClient
from trait_client.http.settings import DEFAULT_URL
from trait_core.console import ApiKey, AsJson, complain, print_json, print_table
from trait_core.errors import InvalidRequestError
from trait_core.schema import Unit
from trait_core.storage import sha256_of, write_atomically
from trait_core.vectors.file import VectorFile
from trait_core.vectors.model_shape import ModelShape

from trait_extraction.cli.console import print_lines
from trait_extraction.cli.tables import control_table, imported_table
from trait_extraction.cli.vector_folders import FolderImport, import_folders
from trait_extraction.interchange import sandbox
from trait_extraction.interchange.foreign_vectors import ForeignVectors
from trait_extraction.interchange.gguf_export import control_vector
from trait_extraction.interchange.importing import Imported, import_vectors
from trait_extraction.interchange.locations import read_location
from trait_extraction.interchange.numbering import NUMBERINGS, check_numbering
from trait_extraction.interchange.vector_folders import find_vector_folders

Layers = Annotated[list[int] | None, typer.Option("--layer", min=0, help="0-based decoder block; may be repeated.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]


def import_command(
    source: Annotated[
        str,
        typer.Argument(
            help=".gguf, .pt, .safetensors, .npy, .npz, a folder of `<method>_layer<N>.pt`, a tree of "
            "`<category>/<trait>/<variant>/vectors/<position>/<component>/<method>/layer<N>.pt`, or hf://org/repo@revision/path."
        ),
    ],
    trait: Annotated[
        list[str] | None,
        typer.Option(
            help="Trait name of the new vector file. Of a tree of folders: the traits to import, each name or category/name, "
            "may be repeated; default: all."
        ),
    ] = None,
    numbering: Annotated[
        str | None,
        typer.Option(
            help="Default: as the names in the file state it (blocks.12.hook_resid_post). "
            + "; ".join(f"{name}: {meaning}" for name, meaning in NUMBERINGS.items())
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Method that made the vectors. Default: the folder's method, else imported; of a tree: all."),
    ] = None,
    layer: Layers = None,
    chosen_layer: Annotated[
        int | None,
        typer.Option(min=0, help="Layer for requests that name none. Default: the layer nearest to half depth."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Vector file of the same model; its shape and norms are used instead of a service's."),
    ] = None,
    url: Annotated[str, typer.Option(envvar="TRAIT_SERVICE_URL", help="Address of the model's service.")] = DEFAULT_URL,
    api_key: ApiKey = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the vector files.")] = Path("vectors"),
    register: Annotated[
        bool, typer.Option("--register", help="Register the vector with the service under the trait's name.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Convert vectors of another tool to a vector file, `<out>/<trait>/<method>.safetensors`.

    Of a tree of folders, every vector becomes a file, `<out>/<category>/<trait>/<variant>/<position>/<method>.safetensors`.
    What cannot be imported is listed at the end with the reason.

    Example: `trait-extract import happy.gguf --trait happy --numbering block --url http://127.0.0.1:8000`
    """
    if like is not None and register:
        raise InvalidRequestError("--register needs the service's own shape: leave --like out", param="like")
    if (said := sandbox.warning()) is not None:
        complain(said, label="note")
    if Path(source).is_dir() and (tree := find_vector_folders(Path(source))):
        if numbering not in {None, "block"}:
            raise InvalidRequestError(
                "layerN.pt of such a tree is the output of block N: leave --numbering out", "numbering"
            )
        options = FolderImport(_shape(like, url, api_key), folder, trait, method, layer, chosen_layer, force)
        with TraitClient(url, api_key=api_key) as client:
            import_folders(tree, options, client if register else None, as_json=as_json)
        return
    if trait is None or len(trait) != 1:
        raise InvalidRequestError("name the new vector, --trait NAME", param="trait")
    (name,) = trait
    foreign = read_location(source, method)
    convention = check_numbering(numbering, foreign)
    shape = _shape(like, url, api_key)
    made_by = method or foreign.facts.get("method", "imported")
    imported = import_vectors(foreign, shape, name, convention, method=made_by, layers=layer, chosen_layer=chosen_layer)
    path = folder / name / f"{made_by}.safetensors"
    data = imported.vector.to_bytes()
    _write(path, data, force=force)
    if register:
        with TraitClient(url, api_key=api_key) as client:
            client.put_vector(name, data)
    for warning in imported.warnings:
        complain(warning, label="warning")
    if as_json:
        print_json(_imported_row(path, data, foreign, imported, registered=name if register else None))
        return
    print_table(imported_table(imported))
    meta = imported.vector.metadata
    print_lines(
        [
            *imported.left_out,
            f"{foreign.kind}; facts in the file: {foreign.facts or 'none'}",
            f"--numbering {convention}: {NUMBERINGS[convention]}",
            f"shape and residual norms: {shape.model}, {shape.n_layers} layers, d_model {shape.d_model}, from {shape.source}",
            "unit separation: coefficient 1 adds the vector as stored in its file. Its centre is unknown: projections are not centred",
            f"layer {meta.chosen_layer}: {meta.chosen_because}",
            f"{path}{f', registered as {name}' if register else ''}",
            sha256_of(data),
        ]
    )


def export_command(
    file: Annotated[Path, typer.Argument(help="Vector file (safetensors).")],
    to: Annotated[Path, typer.Argument(help="GGUF file to write.")],
    layer: Layers = None,
    all_layers: Annotated[bool, typer.Option("--all-layers", help="Export every layer of the file.")] = False,
    coef: Annotated[float, typer.Option(help="Coefficient that llama.cpp's scale 1 adds, in --unit.")] = 1.0,
    unit: Annotated[Unit, typer.Option(help="Unit of --coef; raw means residual units.")] = "raw",
    model_hint: Annotated[str, typer.Option(help="Value of controlvector.model_hint, for example llama.")] = "unknown",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a GGUF control vector for llama.cpp and repeng, by default with the chosen layer only.

    Example: `trait-extract export vectors/refusal/mean_diff.safetensors refusal.gguf --coef 1.5 --unit dose`
    """
    if all_layers and layer:
        raise InvalidRequestError("give --layer or --all-layers, not both", param="layer")
    vector = VectorFile.load(file)
    control = control_vector(vector, sorted(vector.directions) if all_layers else layer, coef, unit)
    data = control.to_bytes(model_hint)
    _write(to, data, force=force)
    if as_json:
        layers = {str(number): {"length": length} for number, length in control.lengths.items()}
        print_json({"file": str(to), "bytes": len(data), "layers": layers, "left_out": control.left_out})
        return
    print_table(control_table(control, vector))
    print_lines(
        [
            *control.left_out,
            "llama.cpp adds scale x direction.N to the output of decoder block N, counted from 0, at every position",
            f"{to}, {len(data)} bytes",
        ]
    )


def _shape(like: Path | None, url: str, api_key: str | None) -> ModelShape:
    """The model's shape, from a vector file of it or from its service."""
    if like is not None:
        return ModelShape.of_metadata(VectorFile.load(like).metadata)
    with TraitClient(url, api_key=api_key) as client:
        return ModelShape.of_service(client.info())


def _write(path: Path, data: bytes, *, force: bool) -> None:
    if path.exists() and not force:
        raise InvalidRequestError(f"{path} already exists: --force overwrites it", param="force")
    write_atomically(path, data)


def _imported_row(
    path: Path, data: bytes, foreign: ForeignVectors, imported: Imported, registered: str | None
) -> dict[str, object]:
    meta = imported.vector.metadata
    return {
        "path": str(path),
        "sha256": sha256_of(data),
        "trait": meta.trait,
        "method": meta.method,
        "kind": foreign.kind,
        "facts": foreign.facts,
        "numbering": meta.method_options["numbering"],
        "layers": {
            str(layer): {"length": norm, "residual_norm": meta.layers[layer].residual_norm}
            for layer, norm in imported.norms.items()
        },
        "left_out": imported.left_out,
        "warnings": imported.warnings,
        "chosen_layer": meta.chosen_layer,
        "registered": registered,
    }
