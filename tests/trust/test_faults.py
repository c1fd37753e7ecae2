"""How the service ends: by a signal, with its requests; by an engine that dies, with an error that says so."""

import concurrent.futures
import json
import signal
import threading
import time

import httpx
import psutil
import pytest
from kill_harness import KilledPatching
from trait_core.errors import TraitError
from trust_harness import MODEL, Target, quickly, target

pytestmark = pytest.mark.engine


@pytest.fixture
def own(smollm2_path, tmp_path):
    """A service that may die."""
    with target(smollm2_path, tmp_path) as found:
        yield found


def long_reply(own: Target, started: threading.Event, n_tokens: int = 200) -> tuple[int, list[str]]:
    """Status and events of a streamed, steered completion; `started` once the first has come."""
    body = {"model": MODEL, "prompt": "One", "max_tokens": n_tokens, "ignore_eos": True, "stream": True}
    body |= {"steering": {"terms": [{"vector": "canary", "coefficient": 1.0}]}}
    events: list[str] = []
    with own.client() as client, client.stream("POST", "/v1/completions", json=body) as response:
        try:
            for line in response.iter_lines():
                events += [line.removeprefix("data: ")] if line else []
                started.set()
        except httpx.TransportError as error:
            events.append(repr(error))
    return response.status_code, events


def readiness(client: httpx.Client) -> int:
    try:
        return client.get("/v1/health/ready").status_code
    except httpx.TransportError:
        return 0


def readiness_until_the_end(own: Target, client: httpx.Client) -> list[int]:
    """What the probe answers from now until the service is gone: without repetitions, 0 where nothing answers."""
    seen = [readiness(client)]
    deadline = time.monotonic() + 60
    while own.service.process.poll() is None and time.monotonic() < deadline:
        seen += [status] if (status := readiness(client)) != seen[-1] else []
    return seen + ([status] if (status := readiness(client)) != seen[-1] else [])


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones(own):
    started = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool, own.client() as client:
        running = pool.submit(long_reply, own, started)
        assert started.wait(60)
        own.service.process.send_signal(signal.SIGTERM)
        assert quickly(lambda: client.get("/v1/health/ready").status_code == 503, 5)
        assert client.get("/health").status_code == 503
        refused = client.post("/v1/completions", json={"model": MODEL, "prompt": "One", "max_tokens": 1})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert "shutting down" in refused.json()["error"]["message"]
        status, events = running.result(120)
    assert (status, events[-1]) == (200, "[DONE]")
    assert json.loads(events[-2])["steering"]["positions"]["generated"] == 199
    assert own.service.process.wait(60) == 0


def test_an_engine_that_dies_gives_clean_errors_an_unready_service_and_a_non_zero_exit(own, tmp_path):
    """A patching among the requests ends with an error, and has stored whole layers or none."""
    started, patching = threading.Event(), KilledPatching(tmp_path)
    engines = [child for child in own.processes()[1:] if "EngineCore" in "".join(child.cmdline()) + child.name()]
    assert engines
    with concurrent.futures.ThreadPoolExecutor() as pool, own.client() as client:
        running = pool.submit(long_reply, own, started, 400)
        waiting = pool.submit(
            client.post,
            "/v1/completions",
            json={"model": MODEL, "prompt": "One", "max_tokens": 400, "ignore_eos": True},
        )
        assert started.wait(60)
        before = own.metric("vllm:request_success_total")
        patched = pool.submit(patching.run, own.url, own.key)
        assert quickly(lambda: own.metric("vllm:request_success_total") > before + 8, 60), "the patching has begun"
        for engine in engines:
            engine.kill()
        seen = readiness_until_the_end(own, client)
        status, events = running.result(60)
        answer = waiting.result(60)
    # The death may be noticed a little late, and the service may end before the next probe; it is never ready again.
    assert seen in ([200, 503, 0], [200, 0], [503, 0], [0]), seen
    assert status == 200
    assert "error" in json.loads(events[-2] if events[-1] == "[DONE]" else events[-1]), events[-2:]
    assert answer.status_code in (500, 503)
    assert {"message", "type", "code"} <= set(answer.json()["error"])
    assert "/" not in answer.json()["error"]["message"].replace("https://", "")
    assert isinstance(patched.exception(300), TraitError)
    assert patching.assert_no_half_rows() < 30
    assert patching.statuses() == ["interrupted"]
    assert own.service.process.wait(60) == 1
    assert "the engine has died" in own.service.log.read_text()
    assert not any(psutil.pid_exists(engine.pid) and engine.status() != psutil.STATUS_ZOMBIE for engine in engines)
