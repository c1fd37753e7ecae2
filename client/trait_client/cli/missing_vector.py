"""A trait that has no vector yet: the one command that makes it, and an offer to run it."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import typer

from trait_client.http.settings import DEFAULT_URL
from trait_core.console import API_KEY_VARIABLE, complain, err
from trait_core.errors import DatasetError, UnknownVectorError
from trait_core.programs import find_program
from trait_core.traits import default_traits_folder, find_trait

PROGRAM = "trait-extract"
INSTALL = "pip install 'trait-steering[extraction]'"


@dataclass(frozen=True)
class Extraction:
    """The command that makes and registers the vector of a trait.

    Args:
        trait: A trait of the datasets.
        url: Address of the service.
        datasets: Folder of `<category>/<trait>`; None leaves it to the program.
        raw: The model has no chat template: the vector is made from raw text.
    """

    trait: str
    url: str
    datasets: Path | None = None
    raw: bool = False

    @classmethod
    def of(cls, trait: str, url: str, datasets: Path | None, *, raw: bool = False) -> "Extraction | None":
        """The command for a trait; None if the datasets do not have it."""
        try:
            find_trait(datasets or default_traits_folder(), trait)
        except DatasetError:
            return None
        return cls(trait, url, datasets, raw)

    @property
    def words(self) -> list[str]:
        """The command as words; an address and a folder that the program takes by itself are left out."""
        where = [] if self.url == DEFAULT_URL else ["--url", self.url]
        return [
            PROGRAM,
            "run",
            "--trait",
            self.trait,
            *(["--style", "completions"] if self.raw else []),
            *where,
            *(["--datasets", str(self.datasets)] if self.datasets else []),
        ]

    def __str__(self) -> str:
        return shlex.join(self.words)

    def missing(self) -> str | None:
        """The command that installs what is missing; None if nothing is."""
        program = find_program(PROGRAM)
        beside = program is not None and Path(program).parent == Path(sys.executable).parent
        return INSTALL if program is None or (beside and find_spec("sklearn") is None) else None

    def refusal(self, error: UnknownVectorError) -> UnknownVectorError:
        """The error with the one command that helps."""
        first = f"{install}, and then `{self}`" if (install := self.missing()) else f"`{self}`"
        return UnknownVectorError(f"the service has no vector of {self.trait} yet: make it with {first}", error.param)

    def run(self, api_key: str | None) -> None:
        """Run the command in this terminal.

        Raises:
            Exit: It failed; it has said why.
        """
        environment = {**os.environ, **({API_KEY_VARIABLE: api_key} if api_key else {})}
        command = [find_program(PROGRAM) or PROGRAM, *self.words[1:]]
        done = subprocess.run(command, env=environment, check=False)  # noqa: S603 - our own program
        if done.returncode:
            raise typer.Exit(done.returncode)


def make_vector(
    trait: str, url: str, api_key: str | None, datasets: Path | None, error: UnknownVectorError, *, raw: bool
) -> None:
    """Offer to make the vector of a trait, and make it.

    Raises:
        UnknownVectorError: There is no such trait, extraction is not installed, or there is no terminal to ask in.
    """
    extraction = Extraction.of(trait, url, datasets, raw=raw)
    if extraction is None:
        raise error
    refused = extraction.refusal(error)
    if extraction.missing() or not (sys.stdin is not None and sys.stdin.isatty() and err.is_terminal):
        raise refused
    complain(refused)
    if not typer.confirm("Run it now?", err=True):
        raise typer.Exit(1)
    extraction.run(api_key)
