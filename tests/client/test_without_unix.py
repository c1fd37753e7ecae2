"""The client's side and the extraction import and work in a Python without the modules that only Unix has.

Not yet run on Windows or macOS: here the modules are taken away, and a lock of Linux stands behind `msvcrt.locking`.
"""

import ast
import json

import numpy as np
import pytest
import safetensors.numpy
from loopback import on_a_port
from sweep_fixtures import MemoryService, write_experiment
from vector_fixtures import made_vector
from windows_harness import PACKAGES, ROOT, run_without_unix

CLIENT = "import sys; from trait_client.cli import main; sys.argv[0] = 'trait-client'; main()"
EXTRACT = "import sys; from trait_extraction.cli import main; sys.argv[0] = 'trait-extract'; main()"
IMPORT_ALL = """
import importlib, pkgutil, sys
from trait_core.locks import fcntl

assert fcntl is None
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(found.name)
        print(found.name)
"""
LOCKS = """
import threading, time
from pathlib import Path
from trait_core.locks import locked

order = []


def wait():
    with locked(Path("lock")):
        order.append("second")


with locked(Path("lock")):
    try:
        with locked(Path("lock"), wait=False):
            order.append("never")
    except BlockingIOError:
        order.append("refused")
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.3)
    order.append("first")
thread.join()
print(*order)
"""
UNIX_ONLY = {
    "os": {
        "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_TMPFILE", "chown", "fchmod", "fchown", "fork", "getegid", "geteuid",
        "getgid", "getloadavg", "getpgid", "getpgrp", "getuid", "killpg", "mkfifo", "nice", "sched_getaffinity",
        "sched_yield", "setsid", "setuid", "statvfs", "sync", "sysconf", "uname",
    },
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "alarm", "pthread_sigmask", "setitimer", "sigwait"},
    "loop": {"add_signal_handler"},
}  # fmt: skip
SOURCES = [path for part in ("client", "extraction") for path in (ROOT / part).rglob("*.py")]


@pytest.fixture
def url():
    with on_a_port(MemoryService().answer) as url:
        yield url


def test_every_module_is_imported(tmp_path):
    code, stdout, stderr = run_without_unix(tmp_path, IMPORT_ALL, *PACKAGES)
    assert code == 0, stderr[-2000:]
    assert len(stdout.splitlines()) > 150
    assert {"trait_extraction.interchange.sandbox", "trait_client.prompt_sets.folder"} <= set(stdout.split())


def test_the_lock_of_windows_is_exclusive_and_can_be_waited_for(tmp_path):
    code, stdout, stderr = run_without_unix(tmp_path, LOCKS)
    assert (code, stdout.split()) == (0, ["refused", "first", "second"]), stderr[-2000:]


def test_a_sweep_runs_and_can_be_queried(folder, url):
    write_experiment(folder)
    code, _, stderr = run_without_unix(folder, CLIENT, "sweep", "experiment.toml", "--db", "r.duckdb", "--url", url)
    assert (code, stderr) == (0, "")
    query = "select count(*) as n from trials where status = 'done'"
    code, stdout, _ = run_without_unix(folder, CLIENT, "sql", query, "--db", "r.duckdb", "--json")
    assert (code, json.loads(stdout)["rows"]) == (0, [{"n": 6}])


def test_a_prompt_set_is_captured_and_continued(tmp_path, url):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    command = ["capture", "--prompts", "prompts.txt", "--out", "captured", "--max-tokens", "4", "--url", url, "--json"]
    for resumed in (0, 2):
        code, stdout, stderr = run_without_unix(tmp_path, CLIENT, *command)
        assert (code, stderr) == (0, "")
        assert json.loads(stdout)["n_resumed"] == resumed


def test_what_needs_a_lock_says_so_where_there_is_none(tmp_path, url):
    (tmp_path / "prompts.txt").write_text("one\n")
    command = ["capture", "--prompts", "prompts.txt", "--out", "captured", "--max-tokens", "4", "--url", url]
    code, stdout, stderr = run_without_unix(tmp_path, CLIENT, *command, msvcrt=False)
    assert (code, stdout, stderr.count("\n")) == (1, "", 1)
    assert "this Python has neither fcntl nor msvcrt" in stderr


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["import"]])
def test_the_help_of_the_extraction_is_shown(tmp_path, command):
    code, stdout, stderr = run_without_unix(tmp_path, EXTRACT, *command, "--help", msvcrt=False)
    assert (code, stderr) == (0, "")
    assert "trait-extract" in stdout


def test_a_foreign_vector_is_imported_with_a_note_on_the_missing_limit(tmp_path):
    safetensors.numpy.save_file({"layer.1": np.ones(8, np.float32)}, tmp_path / "theirs.safetensors")
    made_vector([1]).save(tmp_path / "like.safetensors")
    command = [
        "import",
        "theirs.safetensors",
        "--trait",
        "warmth",
        "--like",
        "like.safetensors",
        "--numbering",
        "block",
    ]
    code, _, stderr = run_without_unix(tmp_path, EXTRACT, *command, msvcrt=False)
    assert code == 0, stderr
    assert stderr.startswith("note: this system cannot limit the memory of the process that reads the file")
    assert (tmp_path / "vectors" / "warmth" / "imported.safetensors").is_file()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_characters_that_the_output_cannot_hold_are_escaped(folder, url, monkeypatch, encoding):
    write_experiment(folder)
    assert run_without_unix(folder, CLIENT, "sweep", "experiment.toml", "--db", "r.duckdb", "--url", url)[0] == 0
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    query = ["sql", "select '日 → é' as text", "--db", "r.duckdb"]
    code, stdout, stderr = run_without_unix(folder, CLIENT, *query)
    assert (code, stderr, "\\u65e5 \\u2192" in stdout) == (0, "", True)
    assert json.loads(run_without_unix(folder, CLIENT, *query, "--json")[1])["rows"] == [{"text": "日 → é"}]


def test_no_module_names_what_only_unix_has():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.attr}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and any(
            node.attr in names and isinstance(node.value, ast.Name) and node.value.id == module
            for module, names in UNIX_ONLY.items()
        )
    ]  # fmt: skip
    assert found == []


def test_no_module_names_a_place_that_only_unix_has():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and node.value.startswith(("/proc/", "/dev/", "/tmp", "/sys/", "/etc/"))
    ]  # fmt: skip
    assert found == []
