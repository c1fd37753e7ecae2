"""The one reader of text files that a user writes: prompt sets, traits, labels, experiments, configurations.

Every file is UTF-8, with or without a byte order mark. Lines end with LF, CR LF or CR and with nothing else: U+2028,
U+0085 and form feeds are part of a text. A file that is not such a text gets one sentence that names it and says what to do.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trait_core.errors import DatasetError, first_fault
from trait_core.os_errors import sentence_of

_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order mark -> encoding; the longer ones first."""

_BINARY = {
    b"PK\x03\x04": "a zip archive, or an Excel or Word file",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
}
"""First bytes -> kind of file."""

_PRINTED = {"[": "'.[]'", "{": "."}
"""First line of a JSON file that was written for reading -> jq's words for its objects."""

_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def read_text(path: Path, wanted: str = "") -> str:
    """The text of a file: no byte order mark, and every line ends with LF.

    Args:
        path: The file.
        wanted: The file's purpose, for the sentence about a missing or empty file: "write the judge's rubric".

    Raises:
        DatasetError: The file does not exist, is a folder, is empty, cannot be read, or is not UTF-8 text; the message names
            the file, and the line where there is one.
    """
    advice = f": {wanted}" if wanted else ""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        folder = "" if path.parent.is_dir() else f", since there is no folder {path.parent}"
        raise DatasetError(f"{path}: is missing{folder}{advice or ': check its name'}") from error
    except OSError as error:
        folder = "is a folder: give a file" if path.is_dir() else ""  # Windows calls it a missing permission
        raise DatasetError(f"{path}: {folder}" if folder else sentence_of(error, path)) from error
    except ValueError as error:  # a NUL character in the path
        raise DatasetError(f"{str(path)!r}: is not a path: {error}") from error
    text = decode(data, str(path))
    if not text.strip():
        raise DatasetError(f"{path}: is empty{advice}")
    return text


def is_blank(path: Path) -> bool:
    """Tell whether a file does not exist, or holds nothing but white space."""
    return not path.is_file() or not path.read_bytes().strip()


def read_lines(path: Path, wanted: str = "") -> list[str]:
    """The lines of a file without their ends; a line end at the end of the file begins no further line.

    Raises:
        DatasetError: As `read_text`.
    """
    return read_text(path, wanted).removesuffix("\n").split("\n")


def read_json(path: Path, wanted: str = "") -> tuple[str, Any]:
    """The text of a JSON file, to find a line in, and its value.

    Raises:
        DatasetError: As `read_text`, or it is not JSON; the message names the line.
    """
    text = read_text(path, wanted)
    return text, parse_json(text, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        DatasetError: As `read_text`, or it is not TOML.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not TOML: {one_line(error)}") from error


Entry = TypeVar("Entry", bound=BaseModel)


def read_entries(path: Path, model: type[Entry], wanted: str) -> Iterator[tuple[int, Entry]]:
    """The entries of a file with one JSON object on each line, each after its line number; empty lines are skipped.

    Args:
        path: The file.
        model: The form of an entry.
        wanted: Advice for the error where the file is missing: the form of its lines.

    Raises:
        DatasetError: The file is missing, or an entry is malformed; the message names file, line and field.
    """
    for number, line in enumerate(read_lines(path, wanted), 1):
        if not line.strip():
            continue
        try:
            yield number, model.model_validate(parse_json(line, str(path), number))
        except ValidationError as error:
            fault = first_fault(error, whole="the line")
            raise DatasetError(f"{path}:{number}: {fault.with_value()}") from error


def parse_json(text: str, where: str, line: int | None = None) -> Any:
    """The value of a JSON text.

    Args:
        text: The text.
        where: Its file.
        line: Line of the file, if the text is one line of it.

    Raises:
        DatasetError: Not JSON; the message gives file, line and column.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} (column {error.colno})"
        if line is not None and (each := _PRINTED.get(text.strip())) is not None:
            reason = f"each line is a JSON object of its own: `jq -c {each} OLD > NEW` puts them on one line each"
        raise DatasetError(f"{where}:{line or error.lineno}: not JSON: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}:{line or 1}: not JSON that can be read: {one_line(error)}") from error


def decode(data: bytes, name: str) -> str:
    """The text of a file's bytes, or of those on standard input: no byte order mark, and every line ends with LF.

    Args:
        data: The bytes.
        name: The file, for messages.

    Raises:
        DatasetError: Not UTF-8 text; the message names the encoding if it can be recognised.
    """
    if (encoding := _wide_encoding(data)) is not None:
        raise DatasetError(f"{name}: is {encoding}: save it as UTF-8, or {_convert(encoding)}")
    if kind := next((kind for first, kind in _BINARY.items() if data.startswith(first)), None):
        raise DatasetError(f"{name}: is {kind}, not a text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line(data, error.start)
        byte = data[error.start]
        latin = bytes([byte]).decode("cp1252", "replace")
        raise DatasetError(
            f"{name}:{line}: not UTF-8 (byte 0x{byte:02x}): save it as UTF-8; if that byte is {latin!r}, the file is Latin-1 "
            f"(Windows-1252): {_convert('WINDOWS-1252')}"
        ) from error
    if (at := data.find(b"\0")) >= 0:
        raise DatasetError(f"{name}:{_line(data, at)}: holds a NUL byte, so it is damaged or not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def one_line(message: object, limit: int = 200) -> str:
    """The first line of another library's message, without terminal codes and control characters."""
    text = _TERMINAL_CODE.sub("", str(message)).strip().partition("\n")[0]
    return "".join(c if c.isprintable() else " " for c in text)[:limit].strip()


def _wide_encoding(data: bytes) -> str | None:
    """UTF-16 or UTF-32, by the byte order mark or by the zero bytes of ASCII characters; None for another encoding."""
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if marked is not None:
        return marked
    start = data[:2000]
    for zeros, encoding in ((start[1::2], "UTF-16LE"), (start[::2], "UTF-16BE")):
        if len(start) >= 4 and zeros.count(0) > 0.4 * len(zeros) and start.count(0) <= len(start) / 2 + 1:
            return encoding
    return None


def _convert(encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 OLD > NEW"


def _line(data: bytes, at: int) -> int:
    """Number of the line that holds a byte."""
    before = data[:at]
    return before.count(b"\n") + before.replace(b"\r\n", b"").count(b"\r") + 1
