"""The HTTP client against a real local server that answers as the service and vLLM do."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import fake_wire as wire
import httpx
import pytest
from fake_registry import refusal
from fake_service import FakeService
from httpx import Response
from loopback import on_a_port
from trait_client.http import AsyncTraitClient, TraitClient
from trait_core.errors import (
    InvalidRequestError,
    ServiceError,
    ServiceUnreachableError,
    SteeringFailedError,
    UnknownVectorError,
)
from trait_core.schema import (
    ActivationInput,
    ActivationsRequest,
    AppliedTerm,
    SteeredPositions,
    Steering,
    SteeringReport,
    SteeringTerm,
)

MODELS = wire.models("smol", {"smol+kind@3": "sha256:0"}, 2048)
MODELS["data"].reverse()  # the alias first
REPORT = SteeringReport(
    applied=[
        AppliedTerm(
            vector="refusal", sha256="sha256:" + "0" * 64, layer=13, operation="add", unit="dose", coefficient=3.0, a=7.5,
            relative_dose=0.3, scope="all",
        )
    ],
    positions=SteeredPositions(prompt=9, generated=4, cached=2),
).model_dump()  # fmt: skip
STEERING = Steering(terms=[SteeringTerm(vector="refusal", coefficient=3.0)])


BROKEN_OFF = httpx.ReadError("the connection is closed")


class Server:
    """Answers from a function of the request; keeps what it received. A transport error in place of an answer closes."""

    def __init__(self) -> None:
        self.received: list[httpx.Request] = []
        self.url = ""
        self.answer: Callable[[httpx.Request], httpx.Response] = lambda _: Response(200, json={})

    def serve(self, request: httpx.Request) -> httpx.Response:
        self.received.append(request)
        return self.answer(request)

    def answers(self, *sequence: httpx.Response | httpx.TransportError) -> None:
        """Answer in this order; the last one stays."""
        left = list(sequence)

        def answer(_: httpx.Request) -> httpx.Response:
            following = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(following, httpx.TransportError):
                raise following
            return following

        self.answer = answer

    def body(self, i: int = 0) -> dict:
        return json.loads(self.received[i].content)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    with on_a_port(running.serve) as running.url:
        yield running


def chat_answer(text: str = "Sure.", logprobs: dict | None = None, **extra: object) -> httpx.Response:
    document = wire.chat("smol", [wire.chat_choice(0, text, "stop", logprobs)], wire.usage(9, 5))
    return Response(200, json=document | extra)


# ------------------------------------------------------------------------------------------------------ requests


def test_a_chat_request_carries_its_steering_and_the_answer_its_report(server):
    """The body holds the steering as the schema writes it; the reply's text, usage and report are typed."""
    server.answer = lambda _: chat_answer(steering=REPORT)
    with TraitClient(server.url, api_key="secret") as client:
        result = client.chat("hello", model="smol", steering=STEERING, max_tokens=7, seed=5)
    request = server.received[0]
    assert (request.method, request.url.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer secret"
    assert server.body() == {
        "model": "smol",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 5,
        "steering": {
            "terms": [
                {
                    "vector": "refusal",
                    "coefficient": 3.0,
                    "unit": "dose",
                    "operation": "add",
                    "scope": "all",
                    "preserve_norm": False,
                }
            ]
        },
    }
    assert (result.text, result.finish_reason, result.usage.completion_tokens) == ("Sure.", "stop", 5)
    assert result.steering.applied[0].relative_dose == 0.3
    assert result.steering.positions.cached == 2


def test_without_a_model_the_first_base_model_is_used_and_requested_once(server):
    """Aliases stand in /v1/models beside their parent; they are not the default."""
    server.answer = lambda r: Response(200, json=MODELS) if r.url.path == "/v1/models" else chat_answer()
    with TraitClient(server.url) as client:
        client.chat("a")
        client.chat("b")
        assert client.models() == ["smol+kind@3", "smol"]
    assert [r.url.path for r in server.received].count("/v1/models") == 2
    assert {json.loads(r.content)["model"] for r in server.received if r.method == "POST"} == {"smol"}


def test_reasoning_that_the_server_keeps_apart_is_kept_apart(server):
    choice = wire.chat_choice(0, "Four.", "stop")
    choice["message"]["reasoning"] = "2 and 2"
    server.answer = lambda _: Response(200, json=wire.chat("smol", [choice], wire.usage(9, 5)))
    with TraitClient(server.url) as client:
        reply = client.chat("2 + 2?", model="smol")
    assert (reply.reasoning, reply.text) == ("2 and 2", "Four.")


def test_logprobs_of_chats_and_of_completions_have_one_shape(server):
    """Chat logprobs come as objects, completion logprobs as parallel lists; both are read as tokens."""
    top = {"token": "Yes", "logprob": -0.1, "bytes": [89], "top_logprobs": [{"token": "No", "logprob": -2.5}]}
    chat = chat_answer("Yes", logprobs={"content": [top]})
    lists = wire.completion_logprobs(["Yes"]) | {"token_logprobs": [-0.1], "top_logprobs": [{"No": -2.5}]}
    choice = wire.completion_choice(0, "Yes", "length", logprobs=lists)
    text = Response(200, json=wire.completion("smol", [choice], wire.usage(1, 1)))
    server.answer = lambda r: chat if r.url.path == "/v1/chat/completions" else text
    with TraitClient(server.url) as client:
        first = client.chat("?", model="smol", logprobs=5)
        second = client.complete([1, 2], model="smol", logprobs=5)
    assert server.body()["top_logprobs"] == 5
    assert server.body(1) | {"prompt": [1, 2], "logprobs": 5} == server.body(1)
    assert first.logprobs == second.logprobs
    assert first.logprobs[0].top_logprobs[0].logprob == -2.5
    assert not server.body(1).keys() & {"echo", "return_tokens_as_token_ids"}


def test_an_echoed_prompt_has_log_probabilities_from_its_second_token_on(server):
    lists = wire.completion_logprobs(["token_id:1", "token_id:2"])
    lists |= {"token_logprobs": [None, -0.5], "top_logprobs": [None, {"token_id:3": -0.25}]}
    choice = wire.completion_choice(0, "a b", "length", logprobs=lists)
    server.answer = lambda _: Response(200, json=wire.completion("smol", [choice], wire.usage(2, 0)))
    with TraitClient(server.url) as client:
        (token,) = client.complete([1, 2], model="smol", logprobs=1, echo=True).logprobs
    assert server.body() | {"echo": True, "return_tokens_as_token_ids": True} == server.body()
    assert (token.token, token.logprob, token.top_logprobs[0].token) == ("token_id:2", -0.5, "token_id:3")


PINNED = SteeringTerm(vector="sha256:" + "0" * 64, coefficient=3.0, layers=[13])


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"vector": "sha256:" + "1" * 64}, "vector 'sha256:1.*was asked for and 'sha256:0.*applied"),
        ({"layers": [12]}, "layer 12 was asked for and 13 applied"),
        ({"layers": [12, 13]}, "2 steering terms were asked for and 1 applied"),
        ({"operation": "ablate"}, "operation 'ablate' was asked for and 'add' applied"),
        ({"unit": "raw"}, "unit 'raw' was asked for and 'dose' applied"),
        ({"coefficient": 3.001}, "coefficient 3.001 was asked for and 3.0 applied"),
    ],
)
def test_a_reply_steered_otherwise_than_requested_fails(server, term, message):
    server.answer = lambda _: chat_answer(steering=REPORT)
    with TraitClient(server.url) as client:
        assert client.chat("?", model="smol", steering=Steering(terms=[PINNED])).text
        with pytest.raises(SteeringFailedError, match=message):
            client.chat("?", model="smol", steering=Steering(terms=[PINNED.model_copy(update=term)]))


def test_a_coefficient_that_a_balancer_rewrote_in_its_last_bit_is_the_same(server):
    server.answer = lambda _: chat_answer(steering=REPORT)
    with TraitClient(server.url) as client:
        term = PINNED.model_copy(update={"coefficient": 3.0000000000000004})
        assert client.chat("?", model="smol", steering=Steering(terms=[term])).text


def test_a_steered_request_that_a_server_answers_unsteered_fails(server):
    """A plain vLLM ignores the unknown field and would pass its text off as steered."""
    server.answer = lambda _: chat_answer()
    with TraitClient(server.url) as client, pytest.raises(SteeringFailedError, match="does not report any"):
        client.chat("hello", model="smol", steering=STEERING)


def test_numbers_that_json_cannot_express_are_refused_before_they_are_sent(server):
    """A NaN temperature never leaves."""
    with TraitClient(server.url) as client, pytest.raises(InvalidRequestError):
        client.chat("hello", model="smol", temperature=float("nan"))
    assert server.received == []


def test_hundreds_of_requests_are_in_flight_at_once(server):
    """Each is answered only when all 200 have arrived, so that a smaller pool would never finish."""
    everyone = threading.Barrier(200, timeout=30)

    def answer(_: httpx.Request) -> httpx.Response:
        everyone.wait()
        return chat_answer()

    server.answer = answer

    async def send() -> list[str]:
        async with AsyncTraitClient(server.url) as client:
            return [r.text for r in await asyncio.gather(*(client.chat(str(i), model="m") for i in range(200)))]

    assert asyncio.run(send()) == ["Sure."] * 200


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("answer", "message", "param"),
    [
        (
            refusal(400, "layer 40 is out of range: 0..29", "steering.terms[0].layers"),
            "layer 40",
            "steering.terms[0].layers",
        ),
        (Response(413, json={"error": "too large"}), "too large", None),
        (Response(418, json={"detail": "no such thing"}), "no such thing", None),
        (Response(502, content=b"<h1>Bad gateway</h1>"), "Bad gateway", None),
        (Response(500), "Internal Server Error", None),
    ],
)
def test_an_error_body_becomes_a_service_error(server, answer, message, param):
    """Whatever shape the body has, its words and the status are kept."""
    server.answer = lambda _: answer
    with TraitClient(server.url) as client, pytest.raises(ServiceError, match=message) as caught:
        client.chat("hello", model="smol")
    assert (caught.value.status, caught.value.param) == (answer.status_code, param)


def test_a_refused_key_says_how_to_give_one(server):
    """vLLM answers a bare string under `error`."""
    server.answer = lambda _: Response(401, json={"error": "Unauthorized"})
    with TraitClient(server.url) as client, pytest.raises(ServiceError, match="TRAIT_API_KEY") as caught:
        client.info()
    assert caught.value.status == 401


def test_an_unregistered_vector_is_distinguished_from_a_server_without_a_registry(server):
    """Both are a 404."""
    server.answers(refusal(404, "no vector 'kind' is registered"), Response(404, json={"detail": "Not Found"}))
    with TraitClient(server.url) as client:
        with pytest.raises(UnknownVectorError, match="kind"):
            client.vector("kind")
        with pytest.raises(ServiceError, match="is it a trait-service"):
            client.vector("kind")


def test_a_name_that_could_change_the_path_is_never_sent(server):
    """Names are checked before they become part of a path."""
    with TraitClient(server.url) as client, pytest.raises(InvalidRequestError, match="not a vector's name"):
        client.delete_vector("../models")
    assert server.received == []


def test_an_answer_of_another_shape_names_the_field(server):
    """A missing field is an error, not a default."""
    server.answer = lambda _: Response(200, json={"model": "smol"})
    with TraitClient(server.url) as client, pytest.raises(ServiceError, match="config_digest"):
        client.info()


def test_no_service_names_the_address_and_what_to_do():
    """Port 9 (discard) has no service here."""
    unreachable = pytest.raises(ServiceUnreachableError, match=r"127\.0\.0\.1:9 .*trait-service serve")
    with TraitClient("http://127.0.0.1:9", retries=0) as client, unreachable:
        client.info()


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host", "http://", "http://host:99999"])
def test_an_invalid_address_is_refused(address):
    """Before anything is sent."""
    with pytest.raises(InvalidRequestError, match="http://HOST:PORT"):
        TraitClient(address)


def test_readiness_is_an_answer_and_not_an_error(server):
    """503 from /v1/health/ready means not yet; it is not repeated."""
    server.answers(Response(503, json={}), Response(200, json={}))
    with TraitClient(server.url) as client:
        assert [client.ready(), client.ready()] == [False, True]


# -------------------------------------------------------------------------------------------------------- repeats


def test_a_busy_service_is_retried_after_the_time_it_names(server):
    """429 and 503 mean that the request has not run, so a POST is repeated too."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.answers(
        Response(429, json={}, headers={"retry-after": "1"}),
        Response(503, json={}, headers={"retry-after": soon}),
        chat_answer(),
    )
    started = time.monotonic()
    with TraitClient(server.url) as client:
        assert client.chat("hello", model="smol").text == "Sure."
    assert len(server.received) == 3
    assert 1.0 <= time.monotonic() - started < 6


def test_a_service_that_stays_busy_raises_its_own_message(server):
    """After `retries` repetitions, or at once if it asks for more patience than there is."""
    busy = refusal(429, "all rows are taken")
    server.answer = lambda _: busy
    with TraitClient(server.url, retries=1) as client, pytest.raises(ServiceError, match="all rows are taken"):
        client.chat("hello", model="smol")
    assert len(server.received) == 2
    busy.headers["retry-after"] = "3600"
    with TraitClient(server.url) as client, pytest.raises(ServiceError, match="all rows are taken"):
        client.chat("hello", model="smol")
    assert len(server.received) == 3


def test_a_post_that_may_have_run_is_not_retried(server):
    """The connection breaks after the request was sent: a GET is repeated, a POST is not."""
    server.answers(BROKEN_OFF, Response(200, json=MODELS))
    with TraitClient(server.url) as client:
        assert client.models() == ["smol+kind@3", "smol"]
    server.answers(BROKEN_OFF, chat_answer())
    with TraitClient(server.url) as client, pytest.raises(ServiceUnreachableError, match="broke off POST"):
        client.chat("hello", model="smol")
    assert [r.method for r in server.received] == ["GET", "GET", "POST"]


def test_a_silent_service_fails_after_the_timeout(server):
    """The message names the limit."""
    release = threading.Event()
    server.answer = lambda _: (release.wait(), chat_answer())[1]
    given_up = pytest.raises(ServiceUnreachableError, match=r"within 0\.3 s")
    with TraitClient(server.url, timeout=0.3) as client, given_up:
        client.chat("hello", model="smol")
    release.set()


# -------------------------------------------------------------------------------------------------------- streams


def chunk(text: str | None = None, **extra: object) -> bytes:
    choices = [] if text is None else [wire.piece(text)]
    return f"data: {json.dumps(wire.chunk('smol', choices, **extra), ensure_ascii=False)}\n\n".encode()


def streamed(*pieces: bytes, cut: bool = False) -> httpx.Response:
    def send() -> Iterator[bytes]:
        yield from pieces
        if cut:
            raise BROKEN_OFF

    return Response(200, content=send(), headers={"content-type": "text/event-stream"})


USAGE = chunk(usage=wire.usage(9, 2))
LAST = chunk(steering=REPORT)
DONE = b"data: [DONE]\n\n"


def stream(server: Server, *, steering: Steering | None = None) -> list:
    with TraitClient(server.url) as client:
        return list(client.chat_stream("hello", model="smol", steering=steering))


def async_stream(server: Server, *, steering: Steering | None = None) -> list:
    async def read() -> list:
        async with AsyncTraitClient(server.url) as client:
            return [delta async for delta in client.chat_stream("hello", model="smol", steering=steering)]

    return asyncio.run(read())


@pytest.mark.parametrize("read", [stream, async_stream])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_is_read_however_its_bytes_are_cut(server, read, size):
    """Characters of several bytes, and line separators of Unicode inside the text, survive any framing."""
    data = b": ping\n\n" + chunk("grüß\u2028") + chunk("\x85dich").replace(b"\n", b"\r\n") + USAGE + LAST + DONE
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    server.answer = lambda _: streamed(*pieces)
    deltas = read(server, steering=STEERING)
    assert "".join(delta.text for delta in deltas) == "grüß\u2028\x85dich"
    assert deltas[-2].usage.completion_tokens == 2
    assert deltas[-1].steering.positions.generated == 4
    assert server.body()["stream_options"] == {"include_usage": True}


def test_a_stream_gives_the_reasoning_beside_the_text(server):
    pieces = [wire.piece(None, reasoning="2 and"), wire.piece(None, reasoning=" 2"), wire.piece("Four.")]
    lines = [f"data: {json.dumps(wire.chunk('smol', [piece]))}\n\n".encode() for piece in pieces]
    server.answer = lambda _: streamed(*lines, USAGE, DONE)
    deltas = stream(server)
    assert "".join(delta.reasoning or "" for delta in deltas) == "2 and 2"
    assert "".join(delta.text for delta in deltas) == "Four."


@pytest.mark.parametrize("read", [stream, async_stream])
@pytest.mark.parametrize("pieces", [(chunk("hi", steering=REPORT), USAGE), (chunk("hi"), USAGE, LAST)])
def test_the_report_is_read_from_the_chunk_with_the_finish_reason_and_from_one_of_its_own(server, read, pieces):
    """Services up to 0.2 send it in a chunk of its own."""
    server.answer = lambda _: streamed(*pieces, DONE)
    deltas = read(server, steering=STEERING)
    assert "".join(delta.text for delta in deltas) == "hi"
    (report,) = [delta.steering for delta in deltas if delta.steering]
    assert report.positions.generated == 4


@pytest.mark.parametrize("read", [stream, async_stream])
@pytest.mark.parametrize(
    ("pieces", "cut", "error", "message"),
    [
        (
            [chunk("Su"), b'data: {"error": {"message": "died", "type": "x", "code": 500}}\n\n'],
            False,
            ServiceError,
            "died",
        ),
        ([chunk("Su")], False, ServiceError, "broke off before its end"),
        ([chunk("Su")], True, ServiceUnreachableError, "broke off POST"),
        ([chunk("Su"), DONE], False, SteeringFailedError, "does not report any"),
        ([b"data: {]\n\n"], False, ServiceError, "not understood"),
    ],
)
def test_a_stream_that_goes_wrong_ends_in_an_error(server, read, pieces, cut, error, message):
    """An error chunk, a missing end, a broken connection, a missing report: none of them is a finished reply."""
    server.answer = lambda _: streamed(*pieces, cut=cut)
    with pytest.raises(error, match=message):
        read(server, steering=STEERING)


@pytest.mark.parametrize("read", [stream, async_stream])
def test_a_stream_that_is_refused_raises_the_services_error(server, read):
    """The body of a refused stream is read like any other error."""
    server.answer = lambda _: refusal(400, "relative dose 9 is over 2.0", "steering")
    with pytest.raises(ServiceError, match="relative dose 9"):
        read(server)


def test_a_reply_that_mentions_errors_is_not_an_error(server):
    """The word in the text is not an error chunk."""
    server.answer = lambda _: streamed(chunk('{"error": 1}'), DONE)
    assert stream(server)[0].text == '{"error": 1}'


# --------------------------------------------------------------------------------------------------- binary bodies


def test_activations_travel_as_safetensors(server):
    """The request names what it accepts; the answer is read with its metadata."""
    server.answer = FakeService(n_layers=30, d_model=4).answer
    request = ActivationsRequest(inputs=[ActivationInput(text="a"), ActivationInput(text="b")], layers=[9, 13])
    with TraitClient(server.url) as client:
        read = client.activations(request)
    assert server.received[0].headers["accept"] == "application/octet-stream"
    assert server.body()["inputs"] == [{"text": "a"}, {"text": "b"}]
    assert read.mean("response[:]").shape == (2, 2, 4)
    with pytest.raises(InvalidRequestError, match="logprobs=True"):
        _ = read.nll
    with pytest.raises(InvalidRequestError, match="were not requested"):
        read.mean("prompt[:]")


def test_an_answer_that_is_not_activations_is_refused(server):
    """Bytes that are no safetensors file."""
    server.answer = lambda _: Response(200, content=b"\x00" * 64)
    with TraitClient(server.url) as client, pytest.raises(ServiceError, match="cannot be read"):
        client.activations(ActivationsRequest(inputs=[ActivationInput(text="a")]))


def test_a_vectors_bytes_are_returned_unchanged(server):
    """`vector_bytes` keeps the identity (sha256) of the file."""
    server.answer = lambda _: Response(200, content=b"any bytes")
    with contextlib.closing(TraitClient(server.url)) as client:
        assert client.vector_bytes("kind") == b"any bytes"
    assert server.received[0].headers["accept"] == "application/octet-stream"
