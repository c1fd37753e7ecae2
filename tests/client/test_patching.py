"""`trait-client patch`: what is sent, stored and printed; the service's answers are written by hand."""

import asyncio
import json

import httpx
import pytest
from fake_service import FakeService
from loopback import on_a_port
from trait_client.http import AsyncTraitClient
from trait_client.patching import read_patching, run_patch
from trait_client.results import ResultStore
from trait_core.errors import InvalidRequestError, ServiceError
from trait_core.schema import PatchRequest

REQUEST = PatchRequest.model_validate(
    {
        "source": {"text": "Capital of France", "span": "France", "answer": " Paris"},
        "target": {"text": "Capital of Italy", "span": "Italy", "answer": " Rome"},
    }
)


COMMAND = (
    "patch", "--raw", "--source", "Capital of France", "--target", "Capital of Italy", "--span", "France", "Italy",
    "--answers", " Paris", " Rome",
)  # fmt: skip


class PatchingService(FakeService):
    """The fake service of 6 layers, and `/v1/patch`: the last token restores a quarter, and all of it from layer 4 on."""

    def __init__(self) -> None:
        super().__init__()
        self.info = self.info.model_copy(update={"n_layers": 6, "residual_norms": [10.0] * 6})
        self.asked: list[list[int]] = []
        self.last: dict = {}

    def answer_patch(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/patch":
            return self.answer(request)
        body = json.loads(request.content)
        self.asked.append(body["layers"])
        self.last = body
        if 9 in body["layers"]:
            error = {"message": "layer 9 is out of range: 0..5", "type": "BadRequestError", "param": "layers"}
            return httpx.Response(400, json={"error": error})
        cells = [
            {
                "part": "before" if i < 2 else "span", "positions": [i], "source_positions": [i], "layer": layer,
                "logprobs": [-1.0, -2.0] if share else [-4.0, -1.0], "difference": 1.0 if share else -3.0, "restored": share,
            }
            for layer in body["layers"]
            for i, share in enumerate([0.0, 0.0, 1.0 if layer >= 4 else 0.25])
        ]  # fmt: skip
        runs = [
            {"tokens": ["Capital", " of", word], "span": [2, 3], "logprobs": pair, "difference": pair[0] - pair[1], "left_out": []}
            for word, pair in ((" France", [-1.0, -2.0]), (" Italy", [-4.0, -1.0]))
        ]  # fmt: skip
        answers = [{"text": text, "token_id": i, "token": text} for i, text in enumerate((" Paris", " Rome"))]
        fields = {"model": "m", "config_digest": "c", "n_layers": 6, "dtype": "float32", "answers": answers}
        return httpx.Response(200, json={**fields, "source": runs[0], "target": runs[1], "cells": cells})


@pytest.fixture
def service():
    return PatchingService()


def patched(service, store, request=REQUEST):
    async def run():
        transport = httpx.MockTransport(service.answer_patch)
        async with AsyncTraitClient("http://service", transport=transport) as client:
            return await run_patch(request, client, store, "France and Italy")

    return asyncio.run(run())


def test_every_layer_is_asked_for_and_every_cell_is_stored(service, tmp_path):
    store = ResultStore(tmp_path / "r.duckdb")
    outcome = patched(service, store)
    assert sorted(service.asked) == [[0, 1, 2, 3], [4, 5]]
    assert (outcome.n_cells, outcome.status) == (18, "ok")
    rows = store.query(
        "SELECT layer, token, source_token, restored FROM patch_cells WHERE position = 2 ORDER BY layer"
    ).rows
    assert rows == [(layer, " Italy", " France", 1.0 if layer >= 4 else 0.25) for layer in range(6)]
    assert store.query("SELECT status, n_trials FROM runs").rows == [("ok", 6)]


def test_the_same_prompts_are_one_patching_and_no_cell_is_stored_twice(service, tmp_path):
    store = ResultStore(tmp_path / "r.duckdb")
    first = patched(service, store, REQUEST.model_copy(update={"layers": [4]}))
    second = patched(service, store, REQUEST.model_copy(update={"layers": [4, 5]}))
    assert first.patching_id == second.patching_id
    with store.reader() as reader:
        stored = read_patching(reader, first.patching_id)
    assert [cell["layer"] for cell in stored.cells] == [4] * 3 + [5] * 3
    assert stored.patching["source_difference"] == 1.0
    other = REQUEST.model_copy(update={"target": REQUEST.target.model_copy(update={"answer": " Milan"})})
    assert patched(service, store, other).patching_id != first.patching_id


def test_a_refusal_ends_the_run_and_keeps_what_had_arrived(service, tmp_path):
    store = ResultStore(tmp_path / "r.duckdb")
    with pytest.raises(ServiceError, match="layer 9 is out of range"):
        patched(service, store, REQUEST.model_copy(update={"layers": [0, 1, 2, 3, 9]}))
    assert store.query("SELECT status FROM runs").rows == [("interrupted",)]


def test_an_unknown_patching_is_refused(service, tmp_path):
    store = ResultStore(tmp_path / "r.duckdb")
    patched(service, store)
    with store.reader() as reader, pytest.raises(InvalidRequestError, match="no patching 'nobody'"):
        read_patching(reader, "nobody")


def test_the_command_prints_what_each_cell_restores(service, cli, tmp_path):
    with on_a_port(service.answer_patch) as url:
        code, stdout, stderr = cli(*COMMAND, "--url", url, "--db", str(tmp_path / "r.duckdb"))
    assert (code, stderr) == (0, "")
    first, title, headings, *rows, outcome, hint = stdout.splitlines()
    assert first == "log p(' Paris') - log p(' Rome'), nats: source +1.00, target -3.00"
    assert title == "# restored share at resid_post"
    assert headings.split("\t") == ["layer", "0 'Capital'", "1 ' of'", "2 ' Italy'"]
    assert [row.split("\t") for row in rows[3:5]] == [
        ["3", "+0.00", "+0.00", "+0.25"],
        ["4", "+0.00", "+0.00", "+1.00"],
    ]
    assert outcome.startswith("ok: 18 cells (")
    assert "patch_cells" in hint


def test_a_prompt_is_a_chat_without_raw_and_the_options_are_sent(service, cli):
    command = [word for word in COMMAND if word != "--raw"]
    options = ("--layer", "4", "--part", "span", "--positions", "prompt[-1]", "--at", "mlp_out", "--json")
    with on_a_port(service.answer_patch) as url:
        code, stdout, _ = cli(*command, *options, "--url", url)
    assert code == 0
    assert {name: service.last[name] for name in ("layers", "parts", "positions", "at")} == {
        "layers": [4], "parts": ["span"], "positions": "prompt[-1]", "at": ["mlp_out"],
    }  # fmt: skip
    assert service.last["source"]["messages"] == [{"role": "user", "content": "Capital of France"}]
    document = json.loads(stdout)
    assert document["patching"]["answer_tokens"] == [" Paris", " Rome"]
    assert [cell["restored"] for cell in document["cells"]] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--part", "middle"), "parts ['middle'] is refused"),
        (("--at", "resid_pre"), "at ['resid_pre'] is refused"),
        (("--source", " "), "the prompt ' ' is empty"),
        (("--positions", "reply[:]"), "positions 'reply[:]' is refused"),
        (("--layer", "9"), "layer 9 is out of range"),
    ],
)
def test_what_cannot_be_patched_is_a_sentence(service, cli, changed, message):
    with on_a_port(service.answer_patch) as url:
        code, stdout, stderr = cli(*COMMAND, *changed, "--url", url)
    assert (code != 0, stdout) == (True, "")
    assert message in stderr
