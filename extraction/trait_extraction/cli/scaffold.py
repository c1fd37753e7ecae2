"""`trait-extract new-trait`: write the folder of a new trait."""

from pathlib import Path
from typing import Annotated

import typer
from trait_core.console import AsJson, print_json
from trait_core.traits.folder import LOCAL

from trait_extraction.cli.console import print_lines
from trait_extraction.data.scaffold import new_trait
from trait_extraction.data.scenarios import Style


def new_trait_command(
    name: Annotated[str, typer.Argument(help="Name of the trait: lower-case letters, digits, _ . and -.")],
    category: Annotated[str, typer.Option(help="Folder below the datasets, created if needed.")] = "custom",
    style: Annotated[
        Style,
        typer.Option(
            help="written: replies to one prompt. instructed: system prompts. completions, continued: for base models."
        ),
    ] = "written",
    datasets: Annotated[Path, typer.Option(help="Folder of `<category>/<trait>`.")] = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Write the folder of a new trait with examples to replace. `trait-extract check` then says what is missing.

    Example: `trait-extract new-trait warmth --category tone`
    """
    folder: Path = new_trait(datasets, category, name, style)
    files = sorted(path.name for path in folder.iterdir())
    if as_json:
        print_json({"folder": str(folder), "files": files})
    else:
        print_lines(
            [f"{folder}: {', '.join(files)}", f"next: read README.md there, then trait-extract check --trait {name}"]
        )
