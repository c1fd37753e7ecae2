"""Reads other tools' files in a child process with limits on memory and time.

The parent starts `python -P -c "..." <kind> <output> <file>...`; the child writes plain safetensors, and the parent reads
nothing else. A pickle never runs code here (`weights_only`), and a parser that a hostile file breaks takes only the child down.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from trait_core.errors import VectorFileError
from trait_core.text_files import one_line

from trait_extraction.interchange.foreign_vectors import MAX_FILE_BYTES, ForeignVectors

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CPU_SECONDS = 60
WALL_SECONDS = 300
DATA_BYTES = 3 * 1024**3
MAX_MESSAGE = 2000
REFUSED = 3
"""Exit code of a child that reports why it cannot read a file."""

_PROGRAM = "from trait_extraction.interchange.sandbox import main; main()"


def read_apart(kind: str, paths: Sequence[Path]) -> list[ForeignVectors]:
    """Read files of one kind, all or none.

    Args:
        kind: `gguf`, `torch`, `numpy` or `safetensors`.
        paths: Regular files.

    Returns:
        Content of each file, in order.

    Raises:
        VectorFileError: A file cannot be read; the message names it.
    """
    for path in paths:
        size = path.stat().st_size
        if not path.is_file() or size > MAX_FILE_BYTES:
            raise VectorFileError(
                f"{path}: {size} bytes; steering vectors are regular files of {MAX_FILE_BYTES} at most"
            )
    with tempfile.TemporaryDirectory(prefix="trait-import-") as folder:
        output = Path(folder) / "vectors.safetensors"
        command = [sys.executable, "-P", "-c", _PROGRAM, kind, str(output), *(str(path.resolve()) for path in paths)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WALL_SECONDS, check=False)  # noqa: S603 - our own program; paths are arguments
        except subprocess.TimeoutExpired as error:
            raise VectorFileError(f"{paths[0]}: reading took more than {WALL_SECONDS} s") from error
        if done.returncode == REFUSED:
            raise VectorFileError(one_line(done.stdout, MAX_MESSAGE))
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise VectorFileError(
                f"{paths[0]}: reading failed within {DATA_BYTES >> 30} GiB and {CPU_SECONDS} s of CPU: {one_line(last, 300)}"
            )
        with safetensors.safe_open(output, framework="numpy") as file:
            described = json.loads(file.metadata()["files"])
            found = [ForeignVectors(d["kind"], {}, d["facts"], d["numbering"]) for d in described]
            for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                index, number = name.split("/")
                found[int(index)].vectors[int(number)] = file.get_tensor(name)
    return found


def warning() -> str | None:
    """A note on the limits that this machine lacks; None where all hold."""
    if resource is not None:
        return None
    return (
        f"this system cannot limit the memory of the process that reads the file, only its time ({WALL_SECONDS} s): import "
        "files from people that you trust"
    )


def main() -> None:
    """The child's program."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from trait_extraction.interchange import formats  # noqa: PLC0415 - torch, after the limits are set

    kind, output, *paths = sys.argv[1:]
    tensors: dict[str, np.ndarray] = {}
    described = []
    for index, path in enumerate(paths):
        try:
            found = formats.READERS[kind](Path(path))
        except VectorFileError as error:
            print(f"{path}: {error}")  # noqa: T201 - the parent reads it
            sys.exit(REFUSED)
        described.append({"kind": found.kind, "facts": found.facts, "numbering": found.numbering})
        tensors |= {f"{index}/{number}": np.ascontiguousarray(v) for number, v in found.vectors.items()}
    safetensors.numpy.save_file(tensors, output, {"files": json.dumps(described)})
