"""`trait-extract` as it is typed: tables or JSON on stdout, one line on stderr for what goes wrong, exit codes."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import safetensors.numpy
from trait_client.schema import ActivationsRequest
from trait_client.vector_file import VectorFile
from trait_extraction.cli import main


@pytest.fixture
def serve(gaussians):
    """Serve known activations over HTTP, for the real client; gives the address and the service."""
    service = gaussians()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body, kind="application/json"):
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self):
            return self.rfile.read(int(self.headers["content-length"]))

        def do_GET(self):
            assert self.headers["authorization"] == "Bearer key"
            self._answer(service.info().model_dump_json().encode())

        def do_POST(self):
            answer = service.activations(ActivationsRequest.model_validate_json(self._body()))
            metadata = {"trait": answer.metadata.model_dump_json()}
            self._answer(safetensors.numpy.save(answer.tensors, metadata), "application/octet-stream")

        def do_PUT(self):
            name = self.path.rsplit("/", 1)[1]
            self._answer(service.put_vector(name, self._body()).model_dump_json().encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", service
    server.shutdown()
    server.server_close()


@pytest.fixture
def trait_extract(monkeypatch, capsys):
    """Run a command line; gives `(exit code, stdout, stderr)`."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["trait-extract", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return call


def test_run_writes_and_registers_vectors_and_tells_so_in_json(serve, trait_extract, trait_folder, tmp_path):
    (url, service), root = serve, trait_folder().parents[1]
    call = ["run", "--trait", "warmth", "--method", "probe", "--method", "random", "--url", url, "--api-key", "key"]
    call += ["--datasets", root, "--out", tmp_path / "vectors", "--json"]
    code, out, err = trait_extract(*call)
    assert code == 0, err
    rows = json.loads(out)
    assert [(r["method"], r["registered"], r["reused"]) for r in rows] == [
        ("probe", "warmth", False),
        ("random", "warmth.random", False),
    ]
    vector = VectorFile.load(tmp_path / "vectors" / "warmth" / "probe.safetensors")
    assert rows[0]["chosen_layer"] == vector.metadata.chosen_layer
    assert set(service.registered) == {"warmth", "warmth.random"}
    assert "reading 32 texts at response[:]" in err
    code, out, _ = trait_extract(*call)
    assert (code, [r["reused"] for r in json.loads(out)], service.n_requests) == (0, [True, True], 1)


def test_run_prints_a_table_and_keeps_the_registry_out_when_told(
    serve, trait_extract, trait_folder, tmp_path, monkeypatch
):
    (url, service), root = serve, trait_folder().parents[1]
    monkeypatch.setenv("TRAIT_API_KEY", "key")
    code, out, _ = trait_extract(
        "run", "--all", "--url", url, "--datasets", root, "--out", tmp_path / "vectors", "--no-register"
    )
    assert code == 0
    assert "warmth" in out
    assert "mean_diff" in out
    assert service.registered == {}


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["run", "--trait", "nowhere"], 1, "no trait 'nowhere'"),
        (["run"], 2, "--trait NAME (once or more) or --all"),
        (["run", "--trait", "warmth", "--positions", "reply[:]"], 2, "positions 'reply[:]' are not understood"),
        (["run", "--trait", "warmth", "--method", "pca"], 2, "unknown method 'pca'"),
        (["run", "--trait", "warmth", "--held-out", "1.5"], 2, "held-out 1.5"),
        (["run", "--trait", "warmth", "--positions", "prompt[:]"], 2, "same prompt on both sides"),
        (["run", "--trait", "warmth", "--url", "http://127.0.0.1:9"], 1, "no service answers at http://127.0.0.1:9"),
        (["run", "--trait", "warmth", "--seed", "-1"], 2, "--seed"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(trait_extract, trait_folder, arguments, code, reason):
    root = trait_folder().parents[1]
    found, out, err = trait_extract(*arguments, "--datasets", root)
    assert (found, out) == (code, "")
    assert reason in err
    assert "Traceback" not in err


def test_check_counts_what_is_valid_and_names_what_is_not(trait_extract, trait_folder):
    root = trait_folder().parents[1]
    code, out, _ = trait_extract("check", "--datasets", root)
    assert code == 0
    assert "tone/warmth" in out
    bad = trait_folder(name="broken")
    (bad / "positive.jsonl").write_text("{\n" * 16)
    code, out, err = trait_extract("check", "--datasets", root, "--json")
    assert code == 1
    assert json.loads(out)["valid"][0] | {"digest": ""} == {
        "trait": "warmth",
        "category": "tone",
        "style": "written",
        "n_scenarios": 16,
        "n_questions": 1,
        "mean_words_positive": 2.0,
        "mean_words_negative": 2.0,
        "metric": None,
        "digest": "",
    }
    assert f"error: {bad / 'positive.jsonl'}:1: not JSON" in err


def test_show_lists_every_layer_and_marks_the_chosen_one(serve, trait_extract, trait_folder, tmp_path):
    root = trait_folder().parents[1]
    options = ["--url", serve[0], "--api-key", "key", "--datasets", root, "--out", tmp_path]
    assert trait_extract("run", "--trait", "warmth", *options)[0] == 0
    path = tmp_path / "warmth" / "mean_diff.safetensors"
    code, out, _ = trait_extract("show", path)
    assert code == 0
    assert "* 5" in out
    assert "sha256:" in out
    assert "Nearest to half of the depth" in out
    content = json.loads(trait_extract("show", path, "--json")[1])
    assert (content["chosen_layer"], len(content["layers"])) == (5, 10)
    path.write_bytes(b"torn")
    code, _, err = trait_extract("show", path)
    assert code == 1
    assert f"error: {path}: " in err
    assert trait_extract("show", tmp_path / "absent")[0] == 1


def test_check_imports_neither_torch_nor_scikit_learn():
    program = "import sys, trait_extraction.cli; print([m for m in ('torch', 'sklearn', 'vllm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
