"""The command line: what it prints where, and its exit codes, against a local server that answers as the service does."""

import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import duckdb
import httpx
import numpy as np
import pytest
from cli_harness import Run, runner
from fake_registry import refusal
from fake_service import ACTIVATIONS, CHATS, FakeService, Pool
from loopback import on_a_port
from terminal import in_terminal
from trait_core.schema import ActivationInput, AppliedTerm, LayerEvidence
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile
from vector_fixtures import made_vector

SHAPE = {"n_layers": 30, "d_model": 4, "model": "smol"}
EVIDENCE = LayerEvidence(separation=2.0, centre=1.0, residual_norm=10.0, auc=0.97)
FILE = made_vector((12, 13), None, EVIDENCE, trait="refusal", chosen_because="best held-out AUC", **SHAPE)
BYTES = FILE.to_bytes()
SHA256 = sha256_of(BYTES)


class Service(FakeService):
    """Says which coefficient steered it; read back, a plain reply is at 1 from the centre, and a steered one at 2."""

    def __init__(self) -> None:
        super().__init__(**SHAPE)
        self.files["refusal.md"] = BYTES
        self.fails[CHATS] = lambda body: (
            refusal(400, "relative dose 9 is over 2.0", "steering")
            if "steering" in body and "refuse me" in body["messages"][0]["content"]
            else None
        )

    def reply(self, body: dict, prompt: str, applied: Sequence[AppliedTerm]) -> str:
        return f"steered by {applied[0].coefficient}" if applied else "plain [bold]reply\x1b[2J"

    def pool(self, item: ActivationInput, positions: str, layers: Sequence[int]) -> Pool:
        value = 3.0 if item.response.startswith("steered") else 2.0
        return Pool(np.full((len(layers), FILE.metadata.d_model), value), np.ones(len(layers)), 3)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def url(service) -> Iterator[str]:
    with on_a_port(service.answer) as url:
        yield url


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Run:
    """Run the command as from a shell, 100 columns wide: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for variable in ("TRAIT_SERVICE_URL", "TRAIT_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    return runner(monkeypatch, capsys)


# ------------------------------------------------------------------------------------------------------------ steer


def test_steer_prints_both_replies_and_the_numbers(cli, url):
    """Baseline beside steered, then coefficient, a, relative dose, positions and both projections."""
    code, stdout, stderr = cli("steer", "-t", "refusal", "-c", "3", "hello", "--url", url)
    assert (code, stderr) == (0, "")
    assert any("plain [bold]reply" in line and "steered by 3.0" in line for line in stdout.splitlines())
    assert "3 prompt + 3 generated" in stdout
    assert "+1 → +2" in stdout
    assert "\x1b" not in stdout


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("refusal@12>0.5", {"layer": 12, "above": 0.5}),
        ("refusal<-1e1", {"layer": FILE.metadata.chosen_layer, "below": -10.0}),
        (" refusal @ 12 > .5 ", {"layer": 12, "above": 0.5}),
    ],
)
def test_steer_under_a_condition_sends_it_and_reports_it(cli, url, text, asked):
    command = ("steer", "-t", "refusal", "-c", "3", "-l", "13", "hello", "--when", text, "--when-hold", "latch")
    command += ("--when-unit", "separation")
    code, stdout, _ = cli(*command, "--json", "--url", url)
    assert code == 0
    (result,) = json.loads(stdout)["results"]
    (applied,) = result["applied"]
    found = applied["when"]
    assert {name: found[name] for name in asked} == asked
    assert (found["vector"], found["unit"], found["hold"]) == ("refusal.md", "separation", "latch")
    assert applied["acted"] == {name: result["positions"][name] for name in ("prompt", "generated")}


def test_steer_stacks_the_replies_in_a_narrow_terminal(cli, url, monkeypatch):
    """Two columns need 80."""
    monkeypatch.setenv("COLUMNS", "60")
    _, stdout, _ = cli("steer", "-t", "refusal", "-c", "3", "hello", "--url", url)
    assert not any("reply" in line and "steered by" in line for line in stdout.splitlines())
    assert stdout.index("reply") < stdout.index("steered by")


def test_steer_json_is_one_document_with_what_was_applied(cli, url):
    """Both layers that were asked for are read back."""
    code, stdout, stderr = cli(
        "steer", "-t", "refusal", "-c", "-2", "-l", "12", "-l", "13", "hi", "--json", "--url", url
    )
    assert (code, stderr) == (0, "")
    (result,) = json.loads(stdout)["results"]
    assert result["steered"]["text"] == "steered by -2.0"
    assert [applied["layer"] for applied in result["applied"]] == [12, 13]
    assert result["projections"] == [
        {"layer": 12, "baseline": 1.0, "steered": 2.0},
        {"layer": 13, "baseline": 1.0, "steered": 2.0},
    ]


def test_steer_at_an_mlp_reads_the_replies_back_there_and_refuses_a_vector_of_the_stream(cli, service, url):
    """The vector says its place; `--at` must agree with it."""
    stream = VectorFile.from_bytes(service.files["refusal.md"])
    inside = VectorFile(stream.metadata.model_copy(update={"hook_point": "mlp_out"}), stream.directions)
    service.info = service.info.model_copy(update={"hook_points": ["resid_post", "mlp_out"]})
    service.files["inside"] = inside.to_bytes()
    for options in ((), ("--at", "mlp_out")):
        code, stdout, stderr = cli("steer", "--vector", "inside", "-c", "3", "hello", "--json", "--url", url, *options)
        assert (code, stderr) == (0, "")
        (result,) = json.loads(stdout)["results"]
        assert {applied["at"] for applied in result["applied"]} == {"mlp_out"}
    assert {body["at"] for body in service.answered[ACTIVATIONS]} == {"mlp_out"}
    code, _, stderr = cli("steer", "--vector", "refusal.md", "-c", "3", "hello", "--url", url, "--at", "mlp_out")
    assert code == 1
    assert "is for resid_post, and mlp_out is asked for" in " ".join(stderr.split())


def test_steer_reads_prompts_from_stdin(cli, url, monkeypatch):
    """One a line; empty lines are none."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n\nsecond\n"))
    _, stdout, _ = cli("steer", "--vector", SHA256, "-c", "1", "-", "--no-baseline", "--json", "--url", url)
    results = json.loads(stdout)["results"]
    assert [result["prompt"] for result in results] == ["first", "second"]
    assert results[0]["baseline"] is None


def test_steer_exits_3_when_some_prompts_fail_and_1_when_all_do(cli, url):
    """The service's words stand on stderr, and in the document beside the prompt."""
    code, stdout, stderr = cli("steer", "-t", "refusal", "-c", "3", "ok", "refuse me", "--json", "--url", url)
    assert code == 3
    assert stderr == "error: relative dose 9 is over 2.0\n"
    assert json.loads(stdout)["failed"] == [{"prompt": "refuse me", "error": "relative dose 9 is over 2.0"}]
    assert cli("steer", "-t", "refusal", "-c", "3", "refuse me", "--url", url)[0] == 1


def test_steer_names_the_registered_vectors_if_the_name_is_unknown(cli, url):
    """What is there stands beside what was asked for."""
    code, _, stderr = cli("steer", "-t", "kindness", "-c", "3", "hi", "--url", url)
    assert code == 1
    assert "kindness" in stderr
    assert "refusal.md" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "3"], "--trait"),
        (["-t", "refusal"], "needs --coef"),
        (["-t", "refusal", "-c", "nan"], "coefficient nan"),
        (["-t", "refusal", "-c", "1", "--unit", "dozen"], "unit 'dozen'"),
        (["-t", "refusal", "-c", "1", "-l", "9999"], "less than 512"),
        (["-t", "refusal", "-c", "1", "--scope", "5:2"], "the first must be below the second"),
        (["-t", "refusal", "-c", "1", "--scope", "a:b"], "FROM:TO"),
        (["-t", "refusal", "-c", "1", "--scope", "some"], "not one of all, prompt, generated, last_prompt"),
        (["-t", "refusal", "-c", "1", "--scope", "response[8::0]"], "the step is 0"),
        (["-t", "refusal", "-c", "1", "--when", "refusal@9"], "write VECTOR@LAYER>NUMBER"),
        (["-t", "refusal", "-c", "1", "--when", "refusal@9>much"], "write VECTOR@LAYER>NUMBER"),
        (["-t", "refusal", "-c", "1", "--when", "refusal@9>nan"], "finite"),
        (["-t", "refusal", "-c", "1", "--when", "refusal>1", "--when-unit", "dose"], "'raw' or 'separation'"),
        (["-t", "refusal", "-c", "1", "--when", "refusal>1", "--when-hold", "once"], "'token', 'latch' or 'prompt'"),
        (["-t", "refusal", "-c", "1", "--url", "nowhere"], "http://HOST:PORT"),
        (["-t", "refusal", "-c", "1", "--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_option_exits_2_and_says_what_is_allowed(cli, arguments, message):
    """No service is asked."""
    code, stdout, stderr = cli("steer", "hi", *arguments)
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert "Traceback" not in stderr


# ---------------------------------------------------------------------------------------------- status and vectors


def test_status_fits_a_page(cli, url):
    """Model, layers and limits."""
    code, stdout, _ = cli("status", "--url", url)
    assert code == 0
    assert "30 (0..29), d_model 4" in stdout
    assert "relative dose 2" in stdout
    assert "resid_post" in stdout
    document = json.loads(cli("status", "--json", "--url", url)[1])
    assert (document["ready"], document["vectors"], document["service"]["model"]) == (True, ["refusal.md"], "smol")


def test_status_exits_1_while_the_service_is_not_ready(cli, service, url):
    """So that a script can wait for it."""
    service.fails["/v1/health/ready"] = lambda _: httpx.Response(503, json={"status": "starting"})
    code, stdout, _ = cli("status", "--url", url)
    assert code == 1
    assert "NOT READY" in stdout


def test_no_service_is_one_line_on_stderr(cli):
    """The address, and how to start one; no traceback."""
    code, stdout, stderr = cli("status", "--url", "http://127.0.0.1:9")
    assert (code, stdout) == (1, "")
    assert stderr.count("\n") == 1
    assert "trait-service serve" in stderr


def test_the_address_can_come_from_the_environment(cli, url, monkeypatch):
    """TRAIT_SERVICE_URL, with the /v1 that OpenAI clients are given."""
    monkeypatch.setenv("TRAIT_SERVICE_URL", url + "/v1/")
    assert json.loads(cli("status", "--json")[1])["url"] == url


def test_vectors_are_listed_shown_put_fetched_and_deleted(cli, url, tmp_path):
    """A fetched file has the bytes that the service holds."""
    assert "refusal.md" in cli("vectors", "list", "--url", url)[1]
    assert "best held-out AUC" in cli("vectors", "show", "refusal.md", "--url", url)[1]
    assert cli("vectors", "get", "refusal.md", "r.safetensors", "--url", url)[0] == 0
    assert (tmp_path / "r.safetensors").read_bytes() == BYTES
    put = json.loads(cli("vectors", "put", "refusal.md", "r.safetensors", "--json", "--url", url)[1])
    assert put["sha256"] == SHA256
    assert cli("vectors", "delete", "refusal.md", "--url", url)[:2] == (0, "deleted refusal.md\n")


def test_a_place_that_cannot_be_written_is_one_line(cli, url, tmp_path):
    """The file, what is wrong with it, and what to do; no error number."""
    (tmp_path / "file").write_text("")
    code, stdout, stderr = cli("vectors", "get", "refusal.md", "file/r.safetensors", "--url", url)
    assert (code, stdout, stderr.count("\n")) == (1, "", 1)
    assert stderr.startswith("error: file: a file is where a folder is needed")
    assert "Errno" not in stderr


@pytest.mark.parametrize("columns", [80, 60])
def test_vectors_are_listed_in_whole_words_on_a_narrow_terminal(url, service, tmp_path, columns):
    """Columns give way, and a line says which."""
    for name in ("helpfulness_expressed.mean_diff", "sycophancy"):
        service.files[name] = BYTES
    program = "import sys; from trait_client.cli import main; sys.argv[0] = 'trait-client'; main()"
    command = [sys.executable, "-c", program, "vectors", "list", "--url", url]
    code, screen = in_terminal(command, tmp_path, columns=columns)
    assert code == 0
    assert all(len(line) <= columns for line in screen.splitlines())
    listed = [line.split()[:2] for line in screen.splitlines()[1:4]]
    assert sorted(listed) == [[name, "refusal"] for name in sorted(service.files)]


def test_vectors_are_listed_with_whole_hashes_in_a_pipe(cli, url, monkeypatch):
    """One line each, separated by tabs, however narrow."""
    monkeypatch.setenv("COLUMNS", "20")
    heading, row = cli("vectors", "list", "--url", url)[1].splitlines()
    assert heading == "name\ttrait\tmethod\tpositions\tlayer\tAUC\tsha256"
    assert row == f"refusal.md\trefusal\tmean_diff\tresponse[:]\t13\t0.97\t{SHA256}"


def test_a_dashboard_on_a_port_in_use_is_one_line(cli):
    """Before the page is announced."""
    pytest.importorskip("uvicorn")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, stdout, stderr = cli("dashboard", "--port", str(port))
    assert (code, stdout, stderr.count("\n")) == (1, "", 1)
    assert stderr.startswith(f"error: port {port} of 127.0.0.1 is used by another program")


def test_an_unknown_vector_exits_1_and_a_wrong_name_2(cli, url):
    """The first is the service's answer, the second is never sent."""
    assert cli("vectors", "show", "kind", "--url", url)[0] == 1
    assert cli("vectors", "show", "../kind", "--url", url)[0] == 2


def test_a_file_that_is_not_a_vector_is_not_sent(cli, tmp_path):
    """The file is checked here first; the message names it."""
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 32)
    code, _, stderr = cli("vectors", "put", "bad", "bad.safetensors", "--url", "http://127.0.0.1:9")
    assert code == 1
    assert "bad.safetensors" in stderr


# ------------------------------------------------------------------------------------------------- sweep, sql, help


def test_sql_prints_a_table_json_or_csv(cli):
    """Values that JSON has no word for become null."""
    with duckdb.connect("r.duckdb") as connection:
        connection.execute("create table t as select 1 as layer, 'NaN'::double as delta, 'a,b' as text")
    query = ("sql", "select * from t", "--db", "r.duckdb")
    assert json.loads(cli(*query, "--json")[1])["rows"] == [{"layer": 1, "delta": None, "text": "a,b"}]
    assert cli(*query, "--csv")[1].splitlines() == ["layer,delta,text", '1,nan,"a,b"']
    assert "a,b" in cli(*query)[1]
    code, _, stderr = cli("sql", "select * from nothing", "--db", "r.duckdb")
    assert (code, stderr.count("\n")) == (2, 1)


def test_sql_prints_wide_rows_whole_in_a_pipe_and_as_blocks_on_a_terminal_that_is_too_narrow(cli, monkeypatch):
    """Nothing is cut off either way."""
    duckdb.connect("r.duckdb").close()
    query = ("sql", "select " + ", ".join(f"{i} as column_number_{i}" for i in range(9)), "--db", "r.duckdb")
    heading, row = cli(*query)[1].splitlines()
    assert heading.split() == [f"column_number_{i}" for i in range(9)]
    assert row.split() == [str(i) for i in range(9)]
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert "column_number_8  8" in cli(*query)[1]


def test_sql_without_a_database_says_so(cli):
    """A query makes no file."""
    code, _, stderr = cli("sql", "select 1", "--db", "none.duckdb")
    assert code == 1
    assert "none.duckdb" in stderr


def test_a_dry_run_contacts_no_service(cli, tmp_path):
    """It counts cells and replies."""
    text = 'name = "x"\ntraits = ["refusal"]\ncoefficients = [1.0, 2.0]\nlayers = [9, 13]\nprompts = ["a", "b", "c"]\n'
    (tmp_path / "experiment.toml").write_text(text)
    code, stdout, _ = cli("sweep", "experiment.toml", "--dry-run", "--json", "--url", "http://127.0.0.1:9")
    assert code == 0
    assert json.loads(stdout)["cells"] == 4
    (tmp_path / "experiment.toml").write_text(text + "colour = 1\n")
    code, _, stderr = cli("sweep", "experiment.toml", "--dry-run")
    assert code == 2
    assert "colour" in stderr


@pytest.mark.parametrize(
    "command",
    [
        ["steer"],
        ["status"],
        ["capture"],
        ["project"],
        ["sweep"],
        ["search"],
        ["rescore"],
        ["judge", "agreement"],
        ["results", "compare"],
        ["results", "export"],
        ["sql"],
        *(["vectors", name] for name in ("list", "show", "put", "get", "alias", "delete")),
    ],
)
def test_help_of_every_command_has_an_example(cli, command):
    """The example begins with the command itself."""
    code, stdout, _ = cli(*command, "--help")
    assert code == 0
    assert f"Example: trait-client {' '.join(command)}" in stdout


def test_an_interruption_exits_130(tmp_path):
    """Ctrl-C while a reply is awaited, and no traceback."""
    asked, released = threading.Event(), threading.Event()

    def silent(_: httpx.Request) -> httpx.Response:
        asked.set()
        released.wait()
        return refusal(500, "too late")

    # As from a terminal: what a shell runs in its background ignores the signal, and so would the program.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = [sys.executable, "-c", f"{heard}; from trait_client.cli import main; main()"]
    with on_a_port(silent) as url:
        arguments = ["steer", "-t", "refusal", "-c", "3", "hi", "--url", url]
        process = subprocess.Popen([*program, *arguments], stderr=subprocess.PIPE, cwd=tmp_path)
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
        finally:
            released.set()
            process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in stderr
