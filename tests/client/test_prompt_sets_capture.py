"""`trait-client capture` against a service in memory: rows, shards, resumption, and a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_harness import Run, runner
from fake_registry import refusal
from fake_service import ACTIVATIONS, FakeService
from fake_text import activation, last_text
from loopback import on_a_port
from trait_client.http.activations import Activations
from trait_client.prompt_sets import read_capture
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.schema import ActivationInput
from trait_core.storage import sha256_of

PROMPTS = [f"prompt number {i}" for i in range(10)]
D_MODEL = 4


def reading(**options) -> FakeService:
    """A service that reads three texts of 40 tokens at once."""
    limits = {"max_activation_inputs": 3} | options.pop("limits", {})
    return FakeService(
        **{"model": "smol", "n_layers": 6, "d_model": D_MODEL, "longest": 40, "limits": limits} | options
    )


def mean(text, layer, positions) -> np.ndarray:
    return activation(text, layer, positions, D_MODEL)


def served(service) -> list[str]:
    """The prompts that were read."""
    bodies = service.answered[ACTIVATIONS]
    return [last_text(ActivationInput.model_validate(item)) for body in bodies for item in body["inputs"]]


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Run:
    """Run the command as from a shell: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS) + "\n")
    return runner(monkeypatch, capsys)


def capture(url, *options, prompts="p.txt", out="c", size=4, positions="prompt[-1]"):
    return (
        "capture", "--prompts", prompts, "--out", out, "--positions", positions, "--shard-size", str(size),
        "--url", url, *options,
    )  # fmt: skip


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_every_prompt_has_its_row_on_every_layer_that_was_asked_for(cli, tmp_path):
    """In the order of the prompt set, whatever the shards and the requests' limit; a layer can be read alone."""
    service = reading()
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli(*capture(url, "--layers", "1-2,5", "--positions", "prompt[:]"))
    assert (code, stderr) == (0, "")
    assert "10 of 10 prompts captured" in stdout
    read = read_capture(tmp_path / "c")
    assert (read.manifest.layers, read.manifest.complete) == ([1, 2, 5], True)
    for positions in ("prompt[-1]", "prompt[:]"):
        want = np.array([[mean(text, layer, positions) for layer in (1, 2, 5)] for text in PROMPTS])
        np.testing.assert_array_equal(read.mean(positions), want)
        np.testing.assert_array_equal(read.mean(positions, layer=5), want[:, 2])
        np.testing.assert_allclose(read.norm(positions, layer=2), np.linalg.norm(want[:, 1], axis=-1), rtol=1e-6)
    assert read.count("prompt[:]").tolist() == read.n_prompt.tolist() == [5] * 10  # with the headers of two turns
    assert max(len(request["inputs"]) for request in service.requests[ACTIVATIONS]) == 3  # the service's limit
    assert sorted(served(service)) == sorted(PROMPTS)
    with pytest.raises(InvalidRequestError, match="layer 4 was not captured"):
        read.mean("prompt[:]", layer=4)
    with pytest.raises(InvalidRequestError, match=r"response\[:\] were not captured"):
        read.mean("response[:]")


def test_a_prompt_without_the_positions_is_counted_and_has_no_mean(cli, tmp_path):
    """The zeros that the service answers for it are not data."""
    with on_a_port(reading().answer) as url:
        code, stdout, _ = cli(*capture(url, "--layers", "1", "--positions", "prompt[5:]"))
    assert code == 0
    assert "10 of 10 prompts captured, 0 found captured, 10 without prompt[5:] (" in stdout
    read = read_capture(tmp_path / "c")
    assert np.isnan(read.mean("prompt[5:]")).all()
    assert np.isnan(read.norm("prompt[5:]", layer=1)).all()
    assert np.isfinite(read.mean("prompt[-1]")).all()


def test_several_shards_are_in_flight(cli):
    """So that the engine's batch stays full: twice what it runs at once."""
    service = reading(delay=0.1)
    with on_a_port(service.answer) as url:
        cli(*capture(url, size=3))
    assert service.most_at_once[ACTIVATIONS] == 3  # 2 x 4 sequences in shards of 3


def test_a_shard_is_an_activations_file_that_the_manifest_vouches_for(cli, tmp_path):
    """Its sha256 is in the manifest, and it can be read alone."""
    with on_a_port(reading().answer) as url:
        cli(*capture(url))
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    files = [(entry["file"], entry["first"], entry["n_prompts"]) for entry in manifest["shards"]]
    assert files == [(f"shard-0000{i}.safetensors", 4 * i, n) for i, n in enumerate((4, 4, 2))]
    for entry in manifest["shards"]:
        data = (tmp_path / "c" / entry["file"]).read_bytes()
        assert sha256_of(data) == entry["sha256"]
        assert len(Activations.from_bytes(data)) == entry["n_prompts"]


def test_the_manifest_keeps_the_further_fields_of_the_prompts_and_a_later_run_updates_them(cli, tmp_path):
    """Nothing is captured again for them; several sets make one capture."""
    (tmp_path / "q.json").write_text(json.dumps([{"id": 1, "text": "a b", "note": "warm"}, {"id": 2, "text": "c"}]))
    service = reading()
    with on_a_port(service.answer) as url:
        assert cli(*capture(url, "--prompts", "p.txt", prompts="q.json"))[0] == 0
        manifest = read_capture(tmp_path / "c").manifest
        assert manifest.ids[:2] == ["q/1", "q/2"]
        assert manifest.metadata == [{"note": "warm"}] + [{}] * 11
        assert manifest.prompt_sets == ["q"] * 2 + ["p"] * 10
        (tmp_path / "q.json").write_text(json.dumps([{"id": 1, "text": "a b"}, {"id": 2, "text": "c", "n": 3}]))
        service.requests[ACTIVATIONS].clear()
        assert cli(*capture(url, "--prompts", "p.txt", prompts="q.json"))[0] == 0
    assert service.requests[ACTIVATIONS] == []
    assert read_capture(tmp_path / "c").manifest.metadata[:2] == [{}, {"n": 3}]


def test_replies_are_generated_where_none_is_given(cli, tmp_path):
    """In one capture with given ones; the generated texts are kept."""
    lines = [{"prompt": "a b", "response": "c d e"}, {"prompt": "f"}, {"text": "g h", "response": "i"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with on_a_port(reading().answer) as url:
        code, _, _ = cli(*capture(url, "--max-tokens", "2", prompts="p.jsonl", positions="response[:]"))
        assert code == 0
        code, _, stderr = cli(*capture(url, prompts="p.jsonl", out="d", positions="response[:]"))
    read = read_capture(tmp_path / "c")
    assert read.n_prompt.tolist() == [4, 3, 3]
    assert read.n_response.tolist() == [3, 2, 1]
    assert read.responses == ["", "yes yes", ""]
    assert code == 2
    assert "has no response to read at response[:]" in stderr
    assert "--max-tokens" in stderr
    assert not (tmp_path / "d").exists()


def test_a_prompt_that_is_refused_leaves_the_others_and_is_tried_again(cli, tmp_path):
    """Exit code 3 and a row of NaN; once it fits, its shard alone is written anew, with the rows it had."""
    long = "word " * 50
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"prompt": p, "id": p[:9]}) for p in [*PROMPTS[:1], long]))
    with (tmp_path / "p.jsonl").open("a") as file:
        file.writelines("\n" + json.dumps({"prompt": prompt}) for prompt in PROMPTS[1:])
    service = reading()
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli(*capture(url, "--json", prompts="p.jsonl"))
        assert code == 3
        assert "1 x the prompt has 52 tokens; at most 40 fit" in stderr
        document = json.loads(stdout)
        assert (document["status"], document["n_captured"], document["n_failed"]) == ("partial", 10, 1)
        read = read_capture(tmp_path / "c")
        assert np.isnan(read.mean("prompt[-1]")[1]).all()
        assert read.count("prompt[-1]")[1] == 0
        assert not read.manifest.complete
        assert list(read.manifest.failed) == ["word word"]
        others = {name: data for name, data in folder_bytes(tmp_path / "c").items() if "00000" not in name}
        service.longest = 60
        service.answered.clear()
        assert cli(*capture(url, prompts="p.jsonl"))[0] == 0
    assert served(service) == [long]
    read = read_capture(tmp_path / "c")
    np.testing.assert_array_equal(read.mean("prompt[-1]")[1, 3], mean(long, 3, "prompt[-1]"))
    np.testing.assert_array_equal(read.mean("prompt[-1]")[0, 3], mean(PROMPTS[0], 3, "prompt[-1]"))
    assert read.manifest.complete
    assert {n: d for n, d in folder_bytes(tmp_path / "c").items() if "00000" not in n and n != "manifest.json"} == {
        n: d for n, d in others.items() if n != "manifest.json"
    }


def test_a_valid_shard_is_kept_and_a_damaged_one_is_captured_again(cli, tmp_path):
    """A finished capture asks for nothing; one byte that changed is noticed."""
    service = reading()
    with on_a_port(service.answer) as url:
        cli(*capture(url))
        before = folder_bytes(tmp_path / "c")
        service.answered.clear()
        code, stdout, _ = cli(*capture(url))
        assert (code, served(service)) == (0, [])
        assert "0 of 10 prompts captured, 10 found captured" in stdout
        shard = tmp_path / "c" / "shard-00001.safetensors"
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        code, _, stderr = cli(*capture(url))
    assert code == 0
    assert "shard-00001.safetensors was damaged" in stderr
    assert sorted(served(service)) == PROMPTS[4:8]
    assert folder_bytes(tmp_path / "c") == before


@pytest.mark.parametrize(
    ("options", "info", "message"),
    [
        (["--layers", "2"], {}, "layers [0, 1, 2, 3, 4, 5] there, [2] now"),
        (["--positions", "prompt[:]"], {}, 'positions ["prompt[-1]"] there, ["prompt[-1]", "prompt[:]"] now'),
        (["--max-tokens", "3"], {}, "generate null there"),
        (["--shard-size", "5"], {}, "shard_size 4 there, 5 now"),
        (["--prompts", "q.txt"], {}, "prompts_digest"),
        ([], {"model": "other", "config_digest": "d"}, 'model "smol" there, "other" now; config_digest "c" there'),
        ([], {"dtype": "bfloat16"}, 'dtype "float32" there'),
    ],
)
def test_another_capture_in_the_same_folder_is_refused(cli, tmp_path, options, info, message):
    """What differs is said, and nothing is touched."""
    (tmp_path / "q.txt").write_text("one prompt more")
    with on_a_port(reading().answer) as url:
        cli(*capture(url))
    before = folder_bytes(tmp_path / "c")
    service = reading(**info)
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli(*capture(url), *options)
    assert (code, stdout, service.requests[ACTIVATIONS]) == (2, "", [])
    assert message in stderr
    assert folder_bytes(tmp_path / "c") == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--layers", "20-8"], 2, "layers '20-8'"),
        (["--layers", "4-6"], 2, "layer 6 is out of range"),
        (["--positions", "reply[:]"], 2, "reply[:]"),
        (["--positions", "prompt[-1:]"], 2, "prompt[-1] are given twice"),
        (["--prompts", "bad.jsonl"], 1, "bad.jsonl:1: "),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_read(cli, tmp_path, options, code, message):
    """The value and what is allowed."""
    (tmp_path / "bad.jsonl").write_text('{"promt": "x"}\n')
    service = reading()
    with on_a_port(service.answer) as url:
        left, stdout, stderr = cli(*capture(url), *options)
    assert (left, stdout, service.requests[ACTIVATIONS]) == (code, "", [])
    assert message in stderr
    assert not (tmp_path / "c").exists()


def test_an_error_of_the_service_ends_the_capture_and_keeps_what_stands(cli, tmp_path):
    """Exit code 3 where shards stand, 1 where none does; the reader says that it is not over."""
    service = reading()
    service.fails[ACTIVATIONS] = lambda body: (
        refusal(500, "the engine is dead") if "number 5" in json.dumps(body) else None
    )
    with on_a_port(service.answer) as url:
        code, _, stderr = cli(*capture(url))
        assert (code, stderr) == (3, "error: 1 x the engine is dead\n")
        with pytest.raises(DatasetError, match="shards are captured: run the same capture again"):
            read_capture(tmp_path / "c")
        assert cli(*capture(url, out="d", size=10))[0] == 1
        del service.fails[ACTIVATIONS]
        assert cli(*capture(url))[0] == 0
    assert read_capture(tmp_path / "c").mean("prompt[-1]").shape == (10, 6, D_MODEL)


def test_a_service_that_was_replaced_in_the_middle_is_noticed(cli, tmp_path):
    """Its rows would be another model's."""
    service = reading()

    def swap(_body):
        service.info = service.info.model_copy(update={"config_digest": "other"})

    service.fails[ACTIVATIONS] = swap
    with on_a_port(service.answer) as url:
        code, _, stderr = cli(*capture(url))
    assert code == 1
    assert "config_digest 'other', not 'c'" in stderr
    assert not list((tmp_path / "c").glob("shard-*"))


def test_two_captures_into_one_folder_are_refused(cli, tmp_path):
    """The second one, while the first runs."""
    service = reading(delay=0.3)
    with on_a_port(service.answer) as url:
        first = start(tmp_path, url)
        try:
            wait_until(lambda: service.requests[ACTIVATIONS])
            code, _, stderr = cli(*capture(url, size=1))
            assert code == 2
            assert "another process captures into c" in stderr
        finally:
            first.kill()
            first.wait()


def test_a_capture_that_is_killed_goes_on_where_it_was(cli, tmp_path):
    """kill -9 in the middle: finished shards are kept byte for byte and none of their prompts is asked for again."""
    service = reading(delay=0.2, limits={"max_num_seqs": 1})
    folder = tmp_path / "c"
    with on_a_port(service.answer) as url:
        process = start(tmp_path, url)
        wait_until(lambda: len(list(folder.glob("shard-*"))) >= 3)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        wait_until(lambda: service.at_once[ACTIVATIONS] == 0)  # what was in flight is answered to nobody
        (folder / ".shard-00009.safetensors.half").write_bytes(b"half a shard")
        standing = {path.name: path.read_bytes() for path in folder.glob("shard-*")}
        assert 3 <= len(standing) < 10
        service.delay = 0.0
        service.answered.clear()
        code, stdout, _ = cli(*capture(url, "--json", size=1))
    assert code == 0
    done = {int(name[6:11]) for name in standing}
    assert json.loads(stdout)["n_resumed"] == len(done)
    assert sorted(served(service)) == [text for i, text in enumerate(PROMPTS) if i not in done]
    assert standing.items() <= folder_bytes(folder).items()
    assert sorted(folder_bytes(folder)) == ["manifest.json", *(f"shard-{i:05}.safetensors" for i in range(10))]
    read = read_capture(folder)
    assert len(set(read.ids)) == 10
    want = np.array([[mean(text, layer, "prompt[-1]") for layer in range(6)] for text in PROMPTS])
    np.testing.assert_array_equal(read.mean("prompt[-1]"), want)


def test_a_shard_that_a_kill_left_out_of_the_manifest_is_taken_in(cli, tmp_path):
    """It was whole before it had its name."""
    service = reading()
    with on_a_port(service.answer) as url:
        cli(*capture(url))
        path = tmp_path / "c" / "manifest.json"
        whole = path.read_text()
        manifest = json.loads(whole)
        del manifest["shards"][1]
        path.write_text(json.dumps(manifest | {"complete": False}))
        service.answered.clear()
        assert cli(*capture(url))[0] == 0
    assert served(service) == []
    assert path.read_text() == whole


def start(folder, url) -> subprocess.Popen:
    program = [sys.executable, "-c", "from trait_client.cli import main; main()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([*program, *capture(url, size=1)], cwd=folder, env=environment)


def wait_until(holds, limit=60.0) -> None:
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_what_an_mlp_adds_is_a_capture_of_its_own(cli, tmp_path):
    """The folder says where in the block was read, and another place is another capture."""
    service = reading(hook_points=["resid_post", "mlp_out"])
    with on_a_port(service.answer) as url:
        done, _, failure = cli(*capture(url, "--at", "mlp_out"))
        assert done == 0, failure
        code, _, err = cli(*capture(url))
        refused, _, attention = cli(*capture(url, "--at", "attn_out", out="other"))
    assert {body["at"] for body in service.answered[ACTIVATIONS]} == {"mlp_out"}
    assert read_capture(tmp_path / "c").manifest.at == "mlp_out"
    shard = Activations.from_bytes((tmp_path / "c" / read_capture(tmp_path / "c").manifest.shards[0].file).read_bytes())
    assert shard.metadata.hook_point == "mlp_out"
    assert code != 0
    assert 'at "mlp_out" there, "resid_post" now' in err.replace("\n", " ")
    assert refused != 0
    assert "no hook point attn_out" in attention.replace("\n", " ")
