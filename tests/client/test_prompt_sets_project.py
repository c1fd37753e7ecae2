"""`trait-client project` against a service in memory: one row a token, aligned, resumed, extended by other vectors."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cli_harness import Run, runner
from fake_registry import refusal
from fake_service import COMPLETIONS, FakeService
from fake_text import projection
from loopback import on_a_port
from trait_client.results import ResultStore
from trait_core.schema import LayerEvidence
from vector_fixtures import made_vector

LINES = [
    {"id": "given", "prompt": "may I", "response": "no you may", "outcome": "refused"},
    {"id": "open", "messages": [{"role": "system", "content": "brief"}, {"role": "user", "content": "hi there"}]},
    {"id": "raw", "text": "the sun", "response": "rises"},
]
TOKENS = {
    "given": (["<user>", "may", "I", "<assistant>"], ["no", "you", "may"]),
    "open": (["<system>", "brief", "<user>", "hi", "there", "<assistant>"], ["yes", "yes", "<end>"]),
    "raw": (["<bos>", "the", "sun"], ["rises"]),
}


@pytest.fixture
def service() -> FakeService:
    return made_service()


def made_service(kind: type[FakeService] = FakeService) -> FakeService:
    """Two vectors on layers 1 and 2, of which the second is their choice."""
    shape = {"n_layers": 6, "d_model": 4, "model": "smol"}
    vectors = [
        made_vector(
            (1, 2), None, LayerEvidence(separation=2.0, centre=centre, residual_norm=10.0), trait=trait, **shape
        )
        for trait, centre in (("kind", 0.5), ("rude", 3.0))
    ]
    return kind(*vectors, **shape)


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Run:
    """Run the command as from a shell: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write(tmp_path, LINES)
    return runner(monkeypatch, capsys)


def write(folder, lines) -> None:
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))


def project(url, *options, vector="kind"):
    return ("project", "--prompts", "p.jsonl", "--vector", vector, "--db", "r.duckdb", "--url", url, *options)


def rows(folder, sql) -> list[tuple]:
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def expected(service, prompt_id, name, layer, centre) -> list[tuple]:
    """`(part, position, token, value)`: a response's token has the value of the position before it."""
    prompt, response = TOKENS[prompt_id]
    ids = service.ids([*prompt, *response])
    return [
        (
            "prompt" if i < len(prompt) else "response",
            i,
            token,
            projection(ids, i if i < len(prompt) else i - 1, service.entry(name).sha256, layer) - centre,
        )
        for i, token in enumerate([*prompt, *response])
    ]


def stored(folder, prompt_id, name, layer) -> list[tuple]:
    return rows(
        folder,
        "select part, position, token, value from token_projections "
        f"where prompt_id = '{prompt_id}' and vector = '{name}' and layer = {layer} order by position",
    )


def test_every_token_has_a_row_on_every_direction(cli, tmp_path, service):
    """Prompt and response are told apart, in chats and raw text; a reply is generated where none is given."""
    options = ("--vector", "rude", "--layer", "1", "--layer", "2", "--max-tokens", "8", "--json")
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli(*project(url, *options))
    assert (code, stderr) == (0, "")
    assert (json.loads(stdout)["status"], json.loads(stdout)["n_projected"]) == ("ok", 3)
    for prompt_id in TOKENS:
        for name, centre in (("kind", 0.5), ("rude", 3.0)):
            for layer in (1, 2):
                assert stored(tmp_path, prompt_id, name, layer) == expected(service, prompt_id, name, layer, centre)
    assert rows(
        tmp_path,
        "select prompt_id, outcome, messages->>'$[1].content', text, response, given, max_tokens, finish_reason, "
        "n_prompt, n_response, model from readings order by prompt_id",
    ) == [
        ("given", "refused", None, None, "no you may", True, None, None, 4, 3, "smol"),
        ("open", None, "hi there", None, "yes yes", False, 8, "stop", 6, 3, "smol"),
        ("raw", None, None, "the sun", "rises", True, None, None, 3, 1, "smol"),
    ]
    assert rows(tmp_path, "select experiment, status, n_trials from runs") == [("p.jsonl", "ok", 3)]


def test_without_a_length_the_prompt_alone_is_read_where_no_response_is_given(cli, tmp_path, service):
    """And the layer is the vector file's choice."""
    with on_a_port(service.answer) as url:
        assert cli(*project(url))[0] == 0
    assert stored(tmp_path, "open", "kind", 2) == expected(service, "open", "kind", 2, 0.5)[:6]
    assert stored(tmp_path, "given", "kind", 2) == expected(service, "given", "kind", 2, 0.5)
    assert rows(tmp_path, "select count(*) from token_projections where layer <> 2") == [(0,)]


def test_what_is_stored_is_not_run_again(cli, tmp_path, service):
    """An outcome that changed is a label: it is set without a reading."""
    with on_a_port(service.answer) as url:
        cli(*project(url, "--max-tokens", "8"))
        before = rows(tmp_path, "select * from token_projections order by all")
        service.requests[COMPLETIONS].clear()
        code, stdout, _ = cli(*project(url, "--max-tokens", "8"))
        assert (code, service.requests[COMPLETIONS]) == (0, [])
        assert "0 of 3 prompts projected, 3 found in the database" in stdout
        assert rows(tmp_path, "select * from token_projections order by all") == before
        write(tmp_path, [LINES[0] | {"outcome": "complied"}, *LINES[1:]])
        cli(*project(url, "--max-tokens", "8"))
        assert service.requests[COMPLETIONS] == []
        assert rows(tmp_path, "select distinct prompt_id, outcome from token_projections order by 1") == [
            ("given", "complied"), ("open", None), ("raw", None),
        ]  # fmt: skip
        write(tmp_path, [LINES[0] | {"response": "yes"}, *LINES[1:]])
        cli(*project(url, "--max-tokens", "8"))
    assert len(service.requests[COMPLETIONS]) == 1


def test_another_vector_is_read_on_the_tokens_that_are_stored(cli, tmp_path, service):
    """A reply that was generated once is not generated again."""
    with on_a_port(service.answer) as url:
        cli(*project(url, "--max-tokens", "8"))
        service.requests[COMPLETIONS].clear()
        cli(*project(url, "--vector", "kind", "--max-tokens", "8", vector="rude"))
    assert len(service.requests[COMPLETIONS]) == 3
    for body in service.requests[COMPLETIONS]:
        assert body["monitor"]["vectors"] == [service.entry("rude").sha256]
        assert body["max_tokens"] == 1
    for prompt_id in TOKENS:
        assert stored(tmp_path, prompt_id, "rude", 2) == expected(service, prompt_id, "rude", 2, 3.0)
    assert rows(tmp_path, "select count(*) from readings") == [(3,)]


def test_more_directions_than_a_request_can_hold_are_read_in_passes_over_the_same_tokens(
    cli, tmp_path, service, monkeypatch
):
    """Two vectors on two layers, two directions a request: each reply is generated once, and read once more."""
    monkeypatch.setattr("trait_client.prompt_sets.project.MAX_MONITORED", 2)
    with on_a_port(service.answer) as url:
        code, stdout, _ = cli(*project(url, "--layer", "1", "--layer", "2", "--max-tokens", "8", "--json", vector="*"))
        assert (code, json.loads(stdout)["n_projected"], json.loads(stdout)["n_directions"]) == (0, 3, 4)
        bodies = service.requests[COMPLETIONS]
        assert sorted(len(body["monitor"]["vectors"]) * len(body["monitor"]["layers"]) for body in bodies) == [2] * 6
        assert sorted(body["max_tokens"] for body in bodies) == [1, 1, 1, 1, 1, 8]
        for prompt_id in TOKENS:
            for name, centre in (("kind", 0.5), ("rude", 3.0)):
                for layer in (1, 2):
                    assert stored(tmp_path, prompt_id, name, layer) == expected(service, prompt_id, name, layer, centre)
        bodies.clear()
        again = cli(*project(url, "--layer", "1", "--layer", "2", "--max-tokens", "8", "--json", vector="*"))[1]
    assert (bodies, json.loads(again)["n_resumed"]) == ([], 3)


def test_a_prompt_that_fails_in_a_pass_is_finished_by_the_next_run(cli, tmp_path, service, monkeypatch):
    """What the first pass stored stays."""
    monkeypatch.setattr("trait_client.prompt_sets.project.MAX_MONITORED", 1)
    second = service.entry("rude").sha256
    service.fails[COMPLETIONS] = lambda body: (
        refusal(400, "no") if second in body["monitor"]["vectors"] and len(body["prompt"]) == 7 else None
    )
    with on_a_port(service.answer) as url:
        code, stdout, _ = cli(*project(url, "--vector", "rude", "--json"))
        document = json.loads(stdout)
        assert (code, document["status"], document["n_projected"], document["n_failed"]) == (3, "partial", 2, 1)
        assert stored(tmp_path, "given", "kind", 2) == expected(service, "given", "kind", 2, 0.5)
        del service.fails[COMPLETIONS]
        service.requests[COMPLETIONS].clear()
        assert json.loads(cli(*project(url, "--vector", "rude", "--json"))[1])["n_projected"] == 1
    assert len(service.requests[COMPLETIONS]) == 1
    assert stored(tmp_path, "given", "rude", 2) == expected(service, "given", "rude", 2, 3.0)


def test_a_pattern_that_fits_no_vector_names_those_that_are_registered(cli, service):
    with on_a_port(service.answer) as url:
        code, _, stderr = cli(*project(url, vector="tonal.*"))
    assert code == 2
    assert "no vector fits 'tonal.*': registered are kind, rude" in stderr


def test_cosines_are_stored_where_they_are_asked_for_and_added_to_what_is_stored(cli, tmp_path, service):
    """They take one more reading of the same tokens."""
    with on_a_port(service.answer) as url:
        cli(*project(url, "--max-tokens", "8"))
        assert rows(tmp_path, "select count(cosines) from reading_projections") == [(0,)]
        before = rows(tmp_path, "select reading_id, centre, projected from reading_projections order by all")
        service.requests[COMPLETIONS].clear()
        assert cli(*project(url, "--max-tokens", "8", "--cosine"))[0] == 0
        assert sorted(body["monitor"]["cosine"] for body in service.requests[COMPLETIONS]) == [False] * 3 + [True] * 3
        service.requests[COMPLETIONS].clear()
        assert "3 found in the database" in cli(*project(url, "--max-tokens", "8", "--cosine"))[1]
        assert service.requests[COMPLETIONS] == []
    assert rows(tmp_path, "select reading_id, centre, projected from reading_projections order by all") == before
    ((worst, n),) = rows(
        tmp_path,
        "select max(abs(c * 256 - (v + centre))), count(*) from "
        "(select unnest(cosines) as c, unnest(projected) as v, centre from reading_projections)",
    )
    assert worst < 1e-3
    assert n == sum(len(prompt) + len(response) - 1 for prompt, response in TOKENS.values())


def test_further_fields_of_a_prompt_are_kept_and_a_later_run_updates_them(cli, tmp_path, service):
    """They are no part of its identity: nothing is read again. Sets of a folder are told apart."""
    folder = tmp_path / "sets"
    folder.mkdir()
    greet = {"system_prompt": "brief", "prompts": [{"id": 1, "text": "hi there", "note": "warm", "tags": ["a", "b"]}]}
    (folder / "greet.json").write_text(json.dumps(greet))
    (folder / "other.txt").write_text("may I\n")
    (folder / "broken.json").write_text("{}")
    options = ("project", "--prompts", "sets", "--vector", "kind", "--db", "r.duckdb", "--json")
    sql = "select prompt_id, prompt_set, metadata->>'note', metadata->>'$.tags[1]' from readings order by prompt_set"
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli(*options, "--url", url)
        assert (code, json.loads(stdout)["status"]) == (3, "ok")
        assert "left out: sets/broken.json: holds no prompts" in stderr
        first, second = rows(tmp_path, sql)
        assert first == ("greet/1", "greet", "warm", "b")
        assert second[1:] == ("other", None, None)
        (folder / "broken.json").unlink()
        greet["prompts"][0]["note"] = "cold"
        (folder / "greet.json").write_text(json.dumps(greet))
        service.requests[COMPLETIONS].clear()
        assert cli(*options, "--url", url)[0] == 0
    assert service.requests[COMPLETIONS] == []
    assert rows(tmp_path, sql)[0] == ("greet/1", "greet", "cold", "b")
    assert rows(tmp_path, "select distinct experiment from runs") == [("sets",)]


def test_a_prompt_that_fails_leaves_the_others_and_is_tried_again(cli, tmp_path, service):
    """Exit code 3, or 1 where all fail; the service's words are on stderr and in the run's row."""
    too_long = refusal(400, "too long")
    service.fails[COMPLETIONS] = lambda body: too_long if len(body["prompt"]) == 7 else None
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli(*project(url, "--json"))
        assert (code, stderr) == (3, "error: 1 x too long\n")
        assert (json.loads(stdout)["n_projected"], json.loads(stdout)["n_failed"]) == (2, 1)
        assert rows(tmp_path, "select status, message from runs") == [("partial", "1 x too long")]
        del service.fails[COMPLETIONS]
        code, stdout, _ = cli(*project(url, "--json"))
        assert (code, json.loads(stdout)["n_resumed"], json.loads(stdout)["n_projected"]) == (0, 2, 1)
        service.fails[COMPLETIONS] = lambda _body: too_long
        assert cli(*project(url, vector="rude"))[0] == 1
    assert stored(tmp_path, "given", "kind", 2) == expected(service, "given", "kind", 2, 0.5)


@pytest.mark.parametrize(
    ("key", "message"), [("prompt", "projections came for"), ("prompt_tokens", "token texts came for")]
)
def test_an_answer_that_lacks_a_row_is_refused(cli, tmp_path, service, key, message):
    """Nothing that is shifted by one is stored."""

    class Shifted(FakeService):
        def monitored(self, *request):
            report = super().monitored(*request)
            del getattr(report.choices[0], key)[:2]
            return report

    service = made_service(Shifted)
    with on_a_port(service.answer) as url:
        code, _, stderr = cli(*project(url))
    assert code == 1
    assert message in stderr
    assert rows(tmp_path, "select count(*) from readings") == [(0,)]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--vector", "calm"], 1, "no vector 'calm'"),
        (["--layer", "3"], 2, "vector 'kind' has no layer 3: it has 1, 2"),
        (["--max-tokens", "0"], 2, "--max-tokens"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_read(cli, tmp_path, service, options, code, message):
    """And no database is made."""
    with on_a_port(service.answer) as url:
        left, stdout, stderr = cli(*project(url), *options)
    assert (left, stdout, service.requests[COMPLETIONS]) == (code, "", [])
    assert message in stderr
    assert not (tmp_path / "r.duckdb").exists()


def test_a_run_that_is_killed_goes_on_where_it_was(cli, tmp_path, service):
    """What was committed stays, nothing is missing and nothing is there twice."""
    write(tmp_path, [{"prompt": f"number {i}", "response": "fine"} for i in range(60)])
    service.delay = 0.3
    with on_a_port(service.answer) as url:
        program = [sys.executable, "-c", "from trait_client.cli import main; main()"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen([*program, *project(url)], cwd=tmp_path, env=environment)
        deadline = time.monotonic() + 60
        while len(service.requests[COMPLETIONS]) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        service.delay = 0.0
        code, stdout, _ = cli(*project(url, "--json"))
    document = json.loads(stdout)
    assert (code, document["n_resumed"] + document["n_projected"]) == (0, 60)
    assert 0 < document["n_resumed"] < 60
    assert rows(tmp_path, "select count(*), count(distinct prompt_id) from readings") == [(60, 60)]
    assert rows(tmp_path, "select count(*) from token_projections where token = 'fine'") == [(60,)]
    assert rows(tmp_path, "select status from runs order by started_at") == [("interrupted",), ("ok",)]
