"""Fetch the Python files of vLLM releases that have no build for the CPU, for the tests that read them.

    make vllm-sources        (the same as: .venv/bin/python deploy/vllm_sources.py)

Standard library and pip only. Of the CUDA wheel (336 MB), which pip finds in the index that it is configured with, only the
`*.py` members are read, by HTTP range requests (under 20 MB); from a server without them pip downloads the whole wheel once.
Nothing is installed and nothing is imported. Without a network the exit code is 0 all the same: the tests are skipped
and say why.
"""

import io
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

VERSIONS = ("0.33.0",)
ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "vllm-sources"
BLOCK = 1 << 20
TIMEOUT_S = 120
WHEEL = ("--no-deps", "--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.12")


class SourcesError(Exception):
    """The files cannot be had; the message says why."""


def main() -> None:
    """Fetch every version that is not in the cache."""
    for version in VERSIONS:
        if (FOLDER / version).is_dir():
            continue
        try:
            count = fetch(version, FOLDER / version)
        except SourcesError as error:
            print(f"sources of vLLM {version}: not fetched, so that their tests are skipped: {error}", flush=True)
        else:
            print(f"sources of vLLM {version}: {count} files in {(FOLDER / version).relative_to(ROOT)}", flush=True)


def fetch(version: str, target: Path) -> int:
    """Write the Python files of a release below `target`; returns how many.

    Raises:
        SourcesError: pip does not find the wheel, or it cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            with opened_wheel(version, Path(folder)) as wheel, zipfile.ZipFile(wheel) as archive:
                files = [member for member in archive.infolist() if member.filename.endswith(".py")]
                # In the order of the file, so that what is read ahead is used.
                for member in sorted(files, key=lambda each: each.header_offset):
                    archive.extract(member, Path(folder) / "files")
        except (OSError, HTTPException, zipfile.BadZipFile) as error:
            raise SourcesError(str(error)) from error
        if not target.is_dir():
            shutil.move(Path(folder) / "files", target)
    return len(files)


def opened_wheel(version: str, folder: Path) -> IO[bytes]:
    """The release's wheel: read over the network in parts where the server allows it, else downloaded into `folder`.

    Raises:
        SourcesError: pip does not find it or cannot download it.
    """
    answer = folder / "report.json"
    # With `fast-deps` pip reads a wheel's metadata by range requests too; the report names the wheel's address.
    _pip("install", "--dry-run", "--ignore-installed", "--use-feature=fast-deps", "--report", answer, "--target", folder,
         *WHEEL, f"vllm=={version}")  # fmt: skip
    url = json.loads(answer.read_text(encoding="utf-8"))["install"][0]["download_info"]["url"]
    try:
        return io.BufferedReader(RemoteFile(url), BLOCK)
    except (SourcesError, OSError):
        _pip("download", "--dest", folder, *WHEEL, f"vllm=={version}")
        return next(folder.glob("vllm-*.whl")).open("rb")


class RemoteFile(io.RawIOBase):
    """A file on a web server, read by range requests.

    Args:
        url: Its address.

    Raises:
        SourcesError: The server does not answer range requests.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0
        with self._part("bytes=-1") as answer:
            self._size = int(answer.headers["Content-Range"].rpartition("/")[2])

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; returns it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read from the position on; returns the number of bytes, 0 at the end."""
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        with self._part(f"bytes={self._position}-{stop - 1}") as answer:
            data = answer.read()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _part(self, byte_range: str) -> Any:
        request = urllib.request.Request(self._url, headers={"Range": byte_range})  # noqa: S310 - pip names the address
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
        if getattr(answer, "status", None) != 206:  # "Partial Content"
            answer.close()
            raise SourcesError(f"{self._url} cannot be read in parts")
        return answer


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise SourcesError("; ".join(errors[-2:]) or f"pip ended with exit code {done.returncode}")


if __name__ == "__main__":
    main()
