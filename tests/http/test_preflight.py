"""What can be known before anything is loaded is said in one line, without vLLM: ports, folders, models."""

import os
import socket
import subprocess
import sys

import httpx
import pytest
from loopback import on_a_port
from small_disk import make_read_only, small_disk
from trait_service.in_process import InProcessService
from trait_service.models.bundled import ModelError
from trait_service.preflight import check_folders, unwritable


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Runs `trait-service serve` where importing vLLM is an error; gives the lines on stderr."""
    pytest.importorskip("vllm")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "vllm.py").write_text("raise ImportError('vLLM was imported')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TRAIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it when it is imported here
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))

    def run(*arguments, code=1, **environment):
        command = [sys.executable, "-m", "trait_service.cli", "serve", *map(str, arguments)]
        variables = {**os.environ, **environment}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (code, "")
        assert "Traceback" not in done.stderr
        assert "vLLM was imported" not in done.stderr
        return done.stderr.splitlines()

    return run


@pytest.fixture
def port():
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_port_in_use(serve):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        (line,) = serve("smollm2", "--port", taken)
    assert line.startswith(f"trait-service: port {taken} of 127.0.0.1 is used by another program: choose another with")


def test_every_folder_that_cannot_be_used_is_named(serve, port, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text("")
    home, vectors = serve("smollm2", "--port", port, "--vectors", tmp_path / "two", TRAIT_HOME=str(tmp_path / "one"))
    assert "a file is where a folder is needed" in home
    assert "set TRAIT_HOME" in home
    assert "with --vectors" in vectors


def test_a_home_that_cannot_be_written(serve, port):
    (line,) = serve("smollm2", "--port", port, HOME="/proc/sys", TRAIT_HOME="")
    assert line.startswith("trait-service: /proc/sys: ")
    assert "set TRAIT_HOME to one that can be written" in line


def test_a_read_only_home_and_registry(serve, port, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "vectors").mkdir()
        make_read_only(disk)
        read_only = "the file system is read-only: choose a place that can be written"
        (line,) = serve("smollm2", "--port", port, "--vectors", disk / "vectors", HOME=str(disk), TRAIT_HOME="")
        assert line.startswith(f"trait-service: {disk}: {read_only} (the service's own folder: set TRAIT_HOME")
        (line,) = serve("smollm2", "--port", port, "--vectors", disk / "new")
        assert line.startswith(f"trait-service: {disk}: {read_only} (the registry of vectors")


def test_another_command_of_the_program_says_it_in_one_line_too(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "trait_service.cli", "key", "create", "laptop", "--scope", "generate"]
    command += ["--file", str(tmp_path / "file" / "keys.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"trait-service: {tmp_path / 'file'}")
    assert "a file is where a folder is needed" in done.stderr


def test_a_registry_that_is_only_readable_is_served_from(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAIT_HOME", str(tmp_path / "home"))
    (tmp_path / "vectors").mkdir()
    assert check_folders(tmp_path / "vectors") == []
    assert check_folders(tmp_path / "new" / "vectors") == []
    assert not (tmp_path / "new").exists()
    assert unwritable(tmp_path / "vectors") is None
    assert unwritable(tmp_path / "new") is None


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "models/a/b", "C:\\models", "my model"])
def test_a_name_that_is_no_model(serve, port, model):
    (line,) = serve(model, "--port", port)
    assert "is neither a folder nor the id of a model" in line or "vLLM" in line
    assert "smollm2" in line


def test_a_model_that_is_not_here_and_no_hub(serve, port, tmp_path):
    (line,) = serve("some/model", "--port", port, HF_HUB_OFFLINE="1")
    assert f"some/model is not in the cache {tmp_path / 'hub' / 'hub'}, and HF_HUB_OFFLINE forbids a download" in line
    (line,) = serve("smolm2", "--port", port, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the hub http://127.0.0.1:9 cannot be reached" in line
    assert "did you mean smollm2?" in line


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (404, "RepoNotFound", "has no model some/model"),
        (401, "RepoNotFound", "has no model some/model"),
        (403, "GatedRepo", "some/model is gated: accept its terms"),
        (404, "RevisionNotFound", "some/model has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses(serve, port, status, code, reason):
    asked = []

    def hub(request):
        if request.url.path.startswith("/api/models/"):
            asked.append(request.url.path)
        return httpx.Response(status, headers={"x-error-code": code, "x-error-message": "no"}, json={"error": "no"})

    with on_a_port(hub) as url:
        (line,) = serve("some/model", "--port", port, "--revision", "v9", HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    assert asked == ["/api/models/some/model/revision/v9"]
    assert reason in line


def test_a_mirror_that_answers_files_only_is_left_to_vllm(tmp_path):
    program = "from trait_service.preflight import check_model; check_model('some/model')"
    with on_a_port(lambda _: httpx.Response(500, text="only files")) as url:
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_a_model_in_the_cache_needs_no_hub(tmp_path):
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    program = "from trait_service.preflight import check_model; check_model('some/model'); print('served')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", program], text=True, env=environment) == "served\n"


def test_an_engine_in_a_script_refuses_the_same_models(monkeypatch):
    pytest.importorskip("vllm")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(ModelError, match="is neither a folder nor the id of a model"):
        InProcessService("./nowhere")
