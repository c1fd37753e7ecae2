"""`trait-extract import` of a tree of vectors: every vector that can be used, and a list of what cannot."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from trait_client.http import TraitClient
from trait_core.console import EXIT_FAILED, EXIT_PARTIAL, print_json, print_table
from trait_core.errors import InvalidRequestError, TraitError
from trait_core.schema import RESID_POST
from trait_core.storage import sha256_of, write_atomically
from trait_core.tables import Column, Table
from trait_core.vectors.model_shape import ModelShape

from trait_extraction.cli.console import print_lines
from trait_extraction.interchange.foreign_vectors import ForeignVectors
from trait_extraction.interchange.importing import Imported, import_vectors
from trait_extraction.interchange.vector_folders import (
    COMPONENTS,
    RESIDUAL,
    VectorFolder,
    read_vector_folders,
    safe_name,
)


@dataclass(frozen=True)
class FolderImport:
    """Options of one import.

    Args:
        shape: The model.
        out: Folder of the vector files.
        traits: Traits to import, each `name` or `category/name`; None imports all.
        method: Method to import; None imports all.
        layers: Layers to keep; None keeps all.
        chosen_layer: Layer for requests that name none; None takes the one nearest to half of the depth.
        force: Overwrite files that differ.
    """

    shape: ModelShape
    out: Path
    traits: Sequence[str] | None
    method: str | None
    layers: list[int] | None
    chosen_layer: int | None
    force: bool


@dataclass(frozen=True)
class Written:
    """A vector file that was written, or was there already with the same content."""

    folder: VectorFolder
    imported: Imported
    path: Path
    data: bytes
    registered: str | None = None


def import_folders(
    found: Sequence[VectorFolder], options: FolderImport, client: TraitClient | None, *, as_json: bool
) -> None:
    """Import the vectors of a tree, and print what was imported and what was not.

    Args:
        found: Result of `find_vector_folders`.
        options: See there.
        client: Service to register the vectors with; None registers none.
        as_json: Print one JSON document.

    Raises:
        InvalidRequestError: The tree has no such trait or method.
        typer.Exit: 1 if nothing was imported, 3 if something that has a hook point was not.
    """
    wanted = _wanted(found, options)
    written: list[Written] = []
    left_out = [(folder, folder.fault) for folder in wanted if folder.fault is not None]
    for folder, foreign in read_vector_folders(wanted):
        try:
            made = _make(folder, foreign, options)
            if any(made.path == each.path for each in written):
                raise InvalidRequestError(f"{made.path} is another vector's file: their names differ in signs only")
            _write(made, force=options.force)
            written.append(made)
        except TraitError as error:
            left_out.append((folder, str(error)))
    if client is not None:
        for i, (name, each) in enumerate(zip(_registry_names(written), list(written), strict=True)):
            try:
                client.put_vector(name, each.data)
                written[i] = replace(each, registered=name)
            except TraitError as error:
                left_out.append((each.folder, f"not registered as {name}: {error}"))
    if as_json:
        rows = [_row(each) for each in written]
        print_json({"imported": rows, "left_out": [{"vector": f.name, "reason": reason} for f, reason in left_out]})
    else:
        print_table(_table(written, options.shape))
        print_lines([*(f"left out: {folder.name}: {reason}" for folder, reason in left_out), *_notes(options.shape)])
    failed = any(folder.component in COMPONENTS for folder, _ in left_out)
    if not written or failed:
        raise typer.Exit(EXIT_PARTIAL if written else EXIT_FAILED)


def _wanted(found: Sequence[VectorFolder], options: FolderImport) -> list[VectorFolder]:
    for trait in options.traits or ():
        if not any(trait in _spellings(folder) for folder in found):
            known = sorted({folder.trait for folder in found})
            raise InvalidRequestError(f"no vectors of {trait!r} in the folder: it has {', '.join(known)}", "trait")
    methods = sorted({folder.method for folder in found})
    if options.method is not None and options.method not in methods:
        raise InvalidRequestError(
            f"no vectors of method {options.method!r} in the folder: it has {', '.join(methods)}", "method"
        )
    return [
        folder
        for folder in found
        if (options.traits is None or set(options.traits) & _spellings(folder))
        and (options.method is None or options.method == folder.method)
    ]


def _spellings(folder: VectorFolder) -> set[str]:
    return {folder.trait, f"{folder.category}/{folder.trait}"}


def _make(folder: VectorFolder, foreign: ForeignVectors | str, options: FolderImport) -> Written:
    if isinstance(foreign, str):
        raise InvalidRequestError(foreign)
    imported = import_vectors(
        replace(foreign, facts=folder.facts),
        options.shape,
        safe_name(folder.trait),
        "block",
        method=safe_name(folder.method),
        layers=options.layers,
        chosen_layer=options.chosen_layer,
        positions=folder.positions,
        at=folder.hook_point,
    )
    parts = [folder.category, folder.trait, folder.variant, folder.position]
    if folder.component != RESIDUAL:
        parts.append(folder.component)
    path = options.out.joinpath(*map(safe_name, parts), f"{safe_name(folder.method)}.safetensors")
    return Written(folder, imported, path, imported.vector.to_bytes())


def _write(made: Written, *, force: bool) -> None:
    if made.path.exists() and not force and made.path.read_bytes() != made.data:
        raise InvalidRequestError(f"{made.path} exists with other content: --force overwrites it")
    write_atomically(made.path, made.data)


def _registry_names(written: Sequence[Written]) -> list[str]:
    """The trait's name, with the category, variant, position, component and method where the trait's vectors differ in them."""
    of_trait: dict[str, list[VectorFolder]] = defaultdict(list)
    for each in written:
        of_trait[each.folder.trait].append(each.folder)
    names = []
    for folder in (each.folder for each in written):
        differing = [
            part
            for part in ("category", "variant", "position", "component", "method")
            if len({getattr(sibling, part) for sibling in of_trait[folder.trait]}) > 1
        ]
        names.append(safe_name(".".join([folder.trait, *(getattr(folder, part) for part in differing)])))
    return names


def _row(each: Written) -> dict[str, Any]:
    meta = each.imported.vector.metadata
    return {
        "path": str(each.path),
        "sha256": sha256_of(each.data),
        "trait": meta.trait,
        "category": each.folder.category,
        "variant": each.folder.variant,
        "method": meta.method,
        "positions": meta.positions,
        "hook_point": meta.hook_point,
        "layers": sorted(meta.layers),
        "chosen_layer": meta.chosen_layer,
        "facts": each.folder.facts,
        "left_out": each.imported.left_out,
        "registered": each.registered,
    }


def _table(written: Sequence[Written], shape: ModelShape) -> Table:
    rows = []
    for each in written:
        meta = each.imported.vector.metadata
        place = f"{each.folder.category}/{meta.trait}"
        layers = f"{min(meta.layers)}..{max(meta.layers)}" if len(meta.layers) > 1 else str(meta.chosen_layer)
        named = each.registered or str(each.path)
        rows.append(
            [
                place,
                each.folder.variant,
                meta.positions,
                "" if meta.hook_point == RESID_POST else meta.hook_point,
                meta.method,
                layers,
                str(meta.chosen_layer),
                named,
            ]
        )
    columns = [
        Column("trait"),
        Column("variant", optional=True),
        Column("positions"),
        Column("at", optional=True),
        Column("method"),
    ]
    columns += [Column("layers", right=True), Column("chosen", right=True), Column("registered as, or file")]
    return Table(columns, rows, title=f"{len(written)} vectors imported for {shape.model}")


def _notes(shape: ModelShape) -> list[str]:
    return [
        f"shape and residual norms: {shape.model}, {shape.n_layers} layers, d_model {shape.d_model}, from {shape.source}",
        "layerN.pt is read as the output of block N, counted from 0",
        "unit separation: coefficient 1 adds a vector as stored in its files. Centres are unknown: projections are not centred",
    ]
