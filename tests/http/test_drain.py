"""A service that is told to end: what runs is finished, what comes is refused, readiness fails."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from asgi_harness import call
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from trait_service.access.admission import AdmissionGuard, InFlight
from trait_service.access.drain import DrainGuard, ShutdownCause
from trait_service.errors import error_response
from trait_service.settings import ServiceSettings


class Service:
    """An application whose work waits until it is let go, behind the two guards that the plugin adds."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.go = asyncio.Event()
        self.in_flight = InFlight(8)
        self.cause = ShutdownCause.of(Namespace())
        self.app = FastAPI()
        self.app.state.server = self.server = SimpleNamespace(should_exit=False, force_exit=False)
        self.app.add_api_route("/v1/completions", self.work, methods=["POST"])
        self.app.add_api_route("/v1/embeddings", self.fail, methods=["POST"])
        for path in ("/health", "/v1/health/ready", "/v1/health/live", "/v1/models"):
            self.app.add_api_route(path, self.look, methods=["GET"])
        self.app.add_middleware(AdmissionGuard, settings=ServiceSettings(), in_flight=self.in_flight)
        self.app.add_middleware(DrainGuard, in_flight=self.in_flight, cause=self.cause, seconds=seconds)

    async def work(self) -> dict:
        await self.go.wait()
        return {"done": True}

    async def fail(self) -> JSONResponse:
        """As vLLM's routes answer when the engine is gone."""
        await self.go.wait()
        return error_response("EngineCore encountered an issue", 500)

    async def look(self) -> dict:
        return {}

    async def start(self) -> None:
        """As a server does: the lifespan comes first."""
        self.events: asyncio.Queue[dict] = asyncio.Queue()
        answers: asyncio.Queue[dict] = asyncio.Queue()
        lifespan = self.app({"type": "lifespan", "state": {}}, self.events.get, answers.put)
        self.lifespan = asyncio.create_task(lifespan)
        await self.events.put({"type": "lifespan.startup"})
        assert await answers.get() == {"type": "lifespan.startup.complete"}

    async def signalled(self, number: signal.Signals) -> None:
        before = len(self.cause.signals)
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            while len(self.cause.signals) == before:  # noqa: ASYNC110 - of objects that know no event
                await asyncio.sleep(0)

    async def end(self) -> None:
        self.go.set()
        await self.events.put({"type": "lifespan.shutdown"})
        await self.lifespan
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - of objects that know no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_work_is_finished_before_the_server_ends(number):
    async def scenario() -> None:
        service = Service()
        await service.start()
        running = asyncio.create_task(call(service.app, "POST", "/v1/completions"))
        await until(lambda: service.in_flight.count == 1)
        await service.signalled(number)
        refused = await call(service.app, "POST", "/v1/completions")
        assert refused.status == 503
        assert (b"retry-after", b"2") in refused.headers
        assert "shutting down" in json.loads(refused.body)["error"]["message"]
        for path, status in (
            ("/health", 503),
            ("/v1/health/ready", 503),
            ("/v1/health/live", 200),
            ("/v1/models", 200),
        ):
            assert (await call(service.app, "GET", path)).status == status, path
        assert not service.server.should_exit
        service.go.set()
        assert (await running).status == 200
        await until(lambda: service.server.should_exit)
        assert not service.server.force_exit
        await service.end()

    asyncio.run(scenario())


def test_work_that_takes_too_long_is_cut_off():
    async def scenario() -> None:
        service = Service(seconds=0.05)
        await service.start()
        running = asyncio.create_task(call(service.app, "POST", "/v1/completions"))
        await until(lambda: service.in_flight.count == 1)
        await service.signalled(signal.SIGTERM)
        await until(lambda: service.server.should_exit and service.server.force_exit)
        await service.end()
        await running

    asyncio.run(scenario())


def test_a_second_signal_ends_at_once():
    async def scenario() -> None:
        service = Service(seconds=3600)
        await service.start()
        running = asyncio.create_task(call(service.app, "POST", "/v1/completions"))
        await until(lambda: service.in_flight.count == 1)
        await service.signalled(signal.SIGTERM)
        await service.signalled(signal.SIGTERM)
        assert service.server.should_exit
        assert service.server.force_exit
        await service.end()
        await running

    asyncio.run(scenario())


@pytest.mark.parametrize(("closing", "status"), [(False, 500), (True, 503)])
def test_a_failure_is_a_503_only_during_the_shutdown(closing, status):
    async def scenario() -> None:
        service = Service()
        await service.start()
        running = asyncio.create_task(call(service.app, "POST", "/v1/embeddings"))
        await until(lambda: service.in_flight.count == 1)
        if closing:
            await service.signalled(signal.SIGTERM)
        service.go.set()
        answer = await running
        assert answer.status == status
        assert json.loads(answer.body)["error"]["code"] == status
        assert ((b"retry-after", b"2") in answer.headers) is closing
        await service.end()

    asyncio.run(scenario())


SERVER = """
import asyncio, socket, sys
from argparse import Namespace
import uvloop
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from trait_service.access.admission import AdmissionGuard, InFlight
from trait_service.access.drain import DrainGuard, ShutdownCause
from trait_service.settings import ServiceSettings
from vllm.entrypoints.launchers.launcher import serve_http

args, in_flight, app = Namespace(), InFlight(8), FastAPI()
app.state.engine_client = None

@app.post("/v1/completions")
async def work():
    print("working", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return {"done": True}

@app.post("/v1/embeddings")
async def endless():
    print("working", flush=True)
    await asyncio.Event().wait()

@app.post("/v1/chat/completions")
async def endless_stream():
    async def chunks():
        yield "data: {}\\n\\n"
        print("working", flush=True)
        await asyncio.Event().wait()
    return StreamingResponse(chunks(), media_type="text/event-stream")

@app.get("/v1/health/ready")
async def ready():
    return {}

app.add_middleware(AdmissionGuard, settings=ServiceSettings(), in_flight=in_flight)
app.add_middleware(DrainGuard, in_flight=in_flight, cause=ShutdownCause.of(args), seconds=30)

async def main():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    await (await serve_http(app, sock, host="127.0.0.1", port=sock.getsockname()[1], log_level="warning"))

uvloop.run(main())
sys.exit(0 if ShutdownCause.of(args).signals else 1)
"""


def test_under_vllms_own_server_the_signal_is_ours():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, text=True) as server:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        url = f"{address}/v1/completions"
        with (
            ThreadPoolExecutor() as pool,
            httpx.Client(transport=httpx.HTTPTransport(retries=10), timeout=60) as client,
        ):
            running = pool.submit(client.post, url)
            assert "working\n" in iter(server.stdout.readline, "")
            server.send_signal(signal.SIGTERM)
            while client.get(f"{address}/v1/health/ready").status_code != 503:
                assert server.poll() is None
            assert client.post(url).status_code == 503
            server.stdin.write("done\n")
            server.stdin.flush()
            assert running.result(30).json() == {"done": True}
        assert server.wait(30) == 0


def test_after_a_second_signal_requests_get_a_503_and_streams_are_cut():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=pipe, stderr=pipe, text=True) as server:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        with (
            ThreadPoolExecutor() as pool,
            httpx.Client(transport=httpx.HTTPTransport(retries=10), timeout=60) as client,
        ):
            plain = pool.submit(client.post, f"{address}/v1/embeddings")
            stream = pool.submit(client.post, f"{address}/v1/chat/completions")
            for _ in range(2):
                assert "working\n" in iter(server.stdout.readline, "")
            server.send_signal(signal.SIGTERM)
            while client.get(f"{address}/v1/health/ready").status_code != 503:
                assert server.poll() is None
            server.send_signal(signal.SIGINT)
            answer = plain.result(30)
            assert answer.status_code == 503
            assert "shutting down" in answer.json()["error"]["message"]
            assert answer.headers["Retry-After"] == "2"
            with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
                stream.result(30)
        assert server.wait(30) == 0
        assert "listen_for_disconnect" not in server.stderr.read(), "no traceback of a stream that was cut on purpose"


def test_an_ending_without_a_signal_is_told_from_a_farewell():
    args = Namespace()
    assert ShutdownCause.of(args).signals == []
    ShutdownCause.of(args).signals.append("SIGTERM")
    assert ShutdownCause.of(args).signals == ["SIGTERM"]
