"""Shared tools of the studies: folders, commands, the database, tables."""

import csv
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
from trait_client.http.local_service import running_service
from trait_client.results import ResultStore
from trait_client.results.rows import ROW_TYPES
from trait_core.console import EXIT_PARTIAL
from trait_core.errors import ServiceError

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}

OWN_TABLES = {"runs", *(row.table for row in ROW_TYPES)}

Row = Mapping[str, Any]


SMALL = "smollm2"
"""The model of all studies, unless another is asked for."""
DTYPES = {"qwen2.5-coder-0.5b": "bfloat16"}
"""Model -> type of its arithmetic, where it is not the service's own choice: on a CPU with AVX512-BF16 products are four times as
fast as in float32."""


class Lab:
    """One study's folders and tools.

    Args:
        name: Name of its folder under `experiments/`.
        model: A bundled model, or a Hugging Face id. Another than the small one has its definitions, tables and plot in a folder of
            its own inside the study's, and its own folder of work.

    Attributes:
        folder: Committed files: definition, tables, plot, README.
        work: Files that are not committed: database, vectors, logs, models.
        db: The result database.
        vectors: Vectors of the model at hand; all studies share them.
    """

    def __init__(self, name: str, model: str = SMALL, work: Path | None = None) -> None:
        self.name = name
        self.model = model
        own = "" if model == SMALL else model.rpartition("/")[2].lower()
        self.folder = ROOT / "experiments" / name / own
        self.work = work or Path("build/studies") / own / name
        self.db = self.work / "results.duckdb"
        self.vectors = self.work.parent / "vectors"
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self, *command: str | Path | int, may_be_partial: bool = False) -> None:
        """Show a command and run it; the study ends where one fails.

        Args:
            command: Its words.
            may_be_partial: Accept exit code 3: the command did a part of its work.
        """
        words = [str(word) for word in command]
        print("  $ " + shlex.join(words), flush=True)
        done = subprocess.run([BIN / words[0], *words[1:]], check=False, env=os.environ | ENVIRONMENT)  # noqa: S603
        if done.returncode and not (may_be_partial and done.returncode == EXIT_PARTIAL):
            sys.exit(f"{words[0]} ended with exit code {done.returncode}")

    def extract(
        self, url: str, *options: str | Path | int, traits: Sequence[str] = (), methods: Sequence[str] = ()
    ) -> None:
        """Extract vectors with `trait-extract run`, keep them in `vectors`, and register them with the service.

        Args:
            url: The service.
            options: Further options of the command.
            traits: Those to extract.
            methods: The methods; none takes the command's own.
        """
        named = [*repeated("--trait", traits), *repeated("--method", methods)]
        self.run("trait-extract", "run", *named, *options, "--out", self.vectors, "--register", "--url", url)

    @contextmanager
    def serving(self, *flags: str, model: str | Path | None = None, name: str = "service") -> Iterator[str]:
        """Start `trait-service serve MODEL` on a free port, yield its address, and stop it at the end.

        Args:
            flags: Further options of the command; a `--dtype` among them takes the place of the study's.
            model: As the command takes it; the study's own by default.
            name: Name of its log and its registry in `work`.
        """
        arguments = self.arguments(*flags, model=model)
        arguments += ["--vectors", str(self.work / f"{name}-registry")]
        print("  $ " + shlex.join(["trait-service", "serve", *arguments]), flush=True)
        began = time.monotonic()
        with ExitStack() as stack:
            try:
                url = stack.enter_context(
                    running_service(arguments, self.work / f"{name}.log", environment=os.environ | ENVIRONMENT)
                )
            except ServiceError as error:
                sys.exit(str(error))
            print(f"  ready at {url} after {time.monotonic() - began:.0f} s", flush=True)
            yield url

    def arguments(self, *flags: str, model: str | Path | None = None) -> list[str]:
        """The model and options of `trait-service serve`, without the registry."""
        arguments = [str(model or self.model), "--served-model-name", self.model, "--enforce-eager"]
        arguments += ["--max-model-len", "1024", "--max-num-seqs", "128"]
        if model is None and "--dtype" not in flags and self.model in DTYPES:
            arguments += ["--dtype", DTYPES[self.model]]
        return [*arguments, *flags]

    def sql(self, query: str, db: Path | None = None) -> list[dict[str, Any]]:
        """Rows of a query over the database, or over another one, as `trait-client sql` gives them."""
        columns, rows, *_ = ResultStore(db or self.db).query(query)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def table(self, name: str, rows: Sequence[Row], *, commit: bool = True) -> None:
        """Keep rows as a table of the database (in place of what it held), and as `<name>.csv` beside the README.

        Raises:
            ValueError: The result database has a table of that name for itself.
        """
        if name in OWN_TABLES:
            raise ValueError(f"a study's table must not be called {name!r}: the result database has one")
        columns = list(rows[0])
        connection = duckdb.connect(self.db)
        selected = ", ".join(f'unnest(?) AS "{column}"' for column in columns)
        try:
            connection.execute(
                f'CREATE OR REPLACE TABLE "{name}" AS SELECT {selected}',
                [[row[column] for row in rows] for column in columns],
            )
        finally:
            connection.close()
        if commit:
            write_csv(self.folder / f"{name}.csv", rows)


def repeated(option: str, values: Iterable[str]) -> list[str]:
    """An option once for each value, as words of a command."""
    return [word for value in values for word in (option, value)]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows with a header; floats to four significant digits, None as an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
