"""The sentence made of an operating-system error: the file, what is wrong with it, and what to do."""

import errno
import os
from pathlib import Path

_SENTENCES = {
    errno.EACCES: "no permission: change its rights, or choose another place",
    errno.EPERM: "not permitted: change its rights, or choose another place",
    errno.EROFS: "the file system is read-only: choose a place that can be written",
    errno.ENOSPC: "the disk is full: make room, or choose a place on another disk",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a file is where a folder is needed: remove it, or choose another place",
    errno.EISDIR: "a folder is where a file is needed: name a file",
    errno.EEXIST: "exists already, and is not what is needed there: remove it, or choose another place",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many open files: raise the limit with `ulimit -n`",
    errno.ENFILE: "too many open files on this machine: close some programs",
    errno.ENOMEM: "not enough memory",
    errno.EIO: "the disk reports an error: choose a place on another disk",
    errno.EADDRINUSE: "the port is used by another program: choose another with --port",
    errno.EADDRNOTAVAIL: "this machine has no such address: use 127.0.0.1 for itself, 0.0.0.0 for all its addresses",
}
if hasattr(errno, "EDQUOT"):  # Windows has no quota error
    _SENTENCES[errno.EDQUOT] = "your share of the disk is used up: make room, or choose a place on another disk"

PRIVILEGED_PORTS = 1024
"""The first port that every user may listen on."""


def sentence_of(error: OSError, place: str | os.PathLike[str] | None = None) -> str:
    """One sentence without an error number: `place: what is wrong: what to do`.

    Args:
        error: The error.
        place: File, folder or address that it concerns; None takes the file that the error names.
    """
    named = _named(error) if place is None else os.fspath(place)
    number = error.errno
    if number == errno.EEXIST and Path(named).is_file():  # a folder was to be made there
        number = errno.ENOTDIR
    known = None if number is None else _SENTENCES.get(number)
    # A library that raises OSError itself gives a text and no number; its first line says the most.
    own = str(error).strip().partition("\n")[0] or type(error).__name__
    said = known or (error.strerror or own if error.errno is not None else own)
    return f"{named}: {said}" if named and (known or named not in said) else said


def sentence_in(text: str) -> str | None:
    """The sentence for an error that a library reports in the system's words only, such as DuckDB; None without one."""
    return next((said for number, said in _SENTENCES.items() if os.strerror(number) in text), None)


def port_sentence(error: OSError, host: str, port: int) -> str:
    """The sentence of a failed attempt to listen on an address."""
    if error.errno in {errno.EACCES, errno.EPERM} and port < PRIVILEGED_PORTS:
        return f"port {port}: ports below {PRIVILEGED_PORTS} are for the administrator: choose another with --port"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is used by another program: choose another with --port, or end that program"
    return sentence_of(error, f"{host}:{port}")


def _named(error: OSError) -> str:
    """The file that the error names; a rename names two, of which the second is the one that was to be written."""
    name = error.filename if error.filename2 is None else error.filename2
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
