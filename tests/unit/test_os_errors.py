"""Operating-system errors as sentences: each error here is one that the system itself gave."""

import errno
import os
import socket
from pathlib import Path

import pytest
from trait_core.listening import PortError, check_port
from trait_core.os_errors import sentence_of
from trait_core.storage import write_atomically


def raised(work, *arguments):
    try:
        work(*arguments)
    except OSError as error:
        return error
    return pytest.fail("the system refused nothing")


def fill_the_disk():
    with Path("/dev/full").open("wb", buffering=0) as disk:
        disk.write(b"x")


@pytest.fixture
def not_root():
    """Rights do not bind root: another user asks."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    error = raised((tmp_path / "file" / "below").write_text, "x")
    assert sentence_of(error) == (
        f"{tmp_path / 'file' / 'below'}: a file is where a folder is needed: remove it, or choose another place"
    )


def test_a_folder_in_the_place_of_a_file(tmp_path):
    assert (
        sentence_of(raised(tmp_path.write_text, "x")) == f"{tmp_path}: a folder is where a file is needed: name a file"
    )


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "a file is where a folder is needed" in sentence_of(raised((tmp_path / "file").mkdir))
    assert "exists already, and is not what is needed there" in sentence_of(raised(tmp_path.mkdir))


def test_a_full_disk():
    error = raised(fill_the_disk)
    assert error.errno == errno.ENOSPC
    assert sentence_of(error, "results.duckdb") == (
        "results.duckdb: the disk is full: make room, or choose a place on another disk"
    )


@pytest.mark.usefixtures("not_root")
def test_a_folder_without_rights():
    folder = Path("/")
    said = sentence_of(raised((folder / "trait-steering-was-here").write_text, "x"))
    assert said == "/trait-steering-was-here: no permission: change its rights, or choose another place"


def test_an_atomic_write_names_its_target_and_not_the_temporary_file():
    error = raised(write_atomically, Path("/proc/results.json"), b"x")
    assert error.filename == "/proc/results.json"
    assert sentence_of(error).startswith("/proc/results.json: ")


def test_a_missing_file(tmp_path):
    assert sentence_of(raised((tmp_path / "no").read_text)) == f"{tmp_path / 'no'}: no such file or folder"


def test_an_error_that_is_not_known_keeps_the_systems_words():
    error = raised(os.readlink, "/")
    assert (error.errno, sentence_of(error)) == (errno.EINVAL, "/: Invalid argument")


def test_an_error_that_a_library_words_is_its_first_line():
    assert sentence_of(OSError("we cannot connect to the hub\nsee the manual\n")) == "we cannot connect to the hub"


def test_a_port_in_use_is_named_before_anything_listens():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            PortError, match=rf"^port {port} of 127\.0\.0\.1 is used by another program: choose another"
        ):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    check_port("", port)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("203.0.113.7", "this machine has no such address"),
        ("no.such.host.invalid", "is not an address of this machine"),
    ],
)
def test_an_address_that_is_not_this_machines(host, reason):
    with pytest.raises(PortError, match=reason):
        check_port(host, 8000)


@pytest.mark.usefixtures("not_root")
def test_a_port_for_the_administrator():
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 80:
        pytest.skip("this machine lets every user listen on port 80")
    with pytest.raises(PortError, match="port 80: ports below 1024 are for the administrator"):
        check_port("127.0.0.1", 80)
