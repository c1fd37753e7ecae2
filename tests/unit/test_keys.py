"""API keys: made once, kept as hashes, read again when the file changes; the command line around them."""

import json
import stat

import pytest
from trait_service import cli
from trait_service.access.keys import ANYONE, KeyFile, Keyring, KeysError, configured_keyring, key_digest, plain_key
from typer.testing import CliRunner


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path / "folder" / "keys.json")


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(*arguments: str):
    return CliRunner().invoke(cli.app, ["key", *arguments])


def test_a_key_is_found_by_its_text_and_kept_as_a_hash(file):
    text = file.create("laptop", frozenset({"generate"}), max_relative_dose=0.5, requests_per_minute=60)
    assert len(text) > 40
    found = Keyring([], file).find(text)
    assert (found.name, found.scopes, found.max_relative_dose, found.requests_per_minute) == (
        "laptop",
        {"generate"},
        0.5,
        60,
    )
    stored = file.path.read_text()
    assert text not in stored
    assert text[3:] not in stored
    assert key_digest(text) in stored


def test_only_its_owner_reads_the_file(file):
    file.create("laptop", frozenset({"admin"}))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", " ", "ts-", "x" * 10**6, "\udcff", ANYONE.sha256])
def test_another_text_is_no_key(file, text):
    file.create("laptop", frozenset({"admin"}))
    assert Keyring([], file).find(text) is None


def test_a_space_more_is_another_key(file):
    text = file.create("laptop", frozenset({"admin"}))
    ring = Keyring([], file)
    assert [ring.find(other) for other in (f"{text} ", text[:-1], text.upper())] == [None] * 3


def test_a_revoked_key_is_refused_while_the_service_runs(file):
    kept, lost = file.create("kept", frozenset({"admin"})), file.create("lost", frozenset({"admin"}))
    clock = Clock()
    ring = Keyring([], file, clock)
    assert ring.find(lost).name == "lost"
    file.revoke("lost")
    clock.now += 1.0
    assert ring.find(lost) is None
    assert ring.find(kept).name == "kept"


def test_a_file_that_breaks_under_a_running_service_leaves_the_last_keys(file, caplog):
    text = file.create("laptop", frozenset({"admin"}))
    clock = Clock()
    ring = Keyring([], file, clock)
    file.path.write_text("{")
    clock.now += 1.0
    assert ring.find(text).name == "laptop"
    assert "stay in force" in caplog.text


def test_the_last_key_gone_closes_the_service(file):
    file.create("laptop", frozenset({"admin"}))
    file.revoke("laptop")
    ring = Keyring([], file)
    assert ring
    assert ring.find("") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"keys": [{"name": "a"}]}',
        json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": ["everything"]}]}),
        json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": []}]}),
        json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": ["admin"]}] * 2}),
        json.dumps({"keys": [{"name": "a", "sha256": "hunter2", "scopes": ["admin"]}]}),
        json.dumps({"keys": [], "kyes": []}),
    ],
)
def test_a_file_that_is_no_list_of_keys_stops_the_start_and_is_not_echoed(file, text):
    file.path.parent.mkdir()
    file.path.write_text(text)
    with pytest.raises(KeysError, match=r"keys\.json") as caught:
        configured_keyring([], file.path, {})
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_absent_stops_the_start(file):
    with pytest.raises(KeysError, match="cannot be read"):
        configured_keyring([], file.path, {})


def test_keys_of_the_environment_and_plain_ones_are_taken_together(file):
    text = file.create("ci", frozenset({"generate"}))
    ring = configured_keyring(["plain"], None, {"TRAIT_KEYS": file.path.read_text()})
    assert ring.find(text).scopes == {"generate"}
    assert ring.find("plain").scopes == {"admin"}
    assert not configured_keyring([], None, {})


def test_admin_opens_everything_and_the_others_their_own():
    assert plain_key("x", 1).allows(frozenset({"steer"}))
    ring_key = plain_key("x", 1).model_copy(update={"scopes": frozenset({"generate"})})
    assert ring_key.allows(frozenset({"generate", "steer"}))
    assert not ring_key.allows(frozenset({"steer"}))
    assert not ring_key.allows(frozenset())


def test_the_command_line_prints_the_key_once(file):
    made = run("create", "laptop", "--scope", "generate", "--scope", "steer", "--file", str(file.path))
    text = made.stdout.strip()
    assert Keyring([], file).find(text).scopes == {"generate", "steer"}
    listed = run("list", "--file", str(file.path))
    assert "laptop" in listed.stdout
    assert text not in listed.output
    assert key_digest(text) not in listed.output
    assert run("revoke", "laptop", "--file", str(file.path)).exit_code == 0
    assert file.read() == []


def test_what_the_command_line_cannot_do_is_exit_code_1(file):
    assert run("list", "--file", str(file.path)).exit_code == 1
    assert run("create", "No Name", "--scope", "admin", "--file", str(file.path)).exit_code == 1
    assert "everything" in run("create", "a", "--scope", "everything", "--file", str(file.path)).output
    assert run("create", "a", "--scope", "admin", "--file", str(file.path)).exit_code == 0
    again = run("create", "a", "--scope", "admin", "--file", str(file.path))
    assert (again.exit_code, "exists already" in again.output) == (1, True)
    assert run("revoke", "b", "--file", str(file.path)).exit_code == 1


def test_the_command_line_takes_the_file_of_the_environment(file, monkeypatch):
    monkeypatch.setenv("TRAIT_KEYS_FILE", str(file.path))
    assert run("create", "a", "--scope", "admin").exit_code == 0
    assert [key.name for key in file.read()] == ["a"]
