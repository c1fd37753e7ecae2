"""The seam before the engine: refusals, leases and reports. The engine's workers are in memory."""

import asyncio
import json
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from resolvers import resolver_of
from trait_core.errors import SteeringFailedError
from trait_core.schema import Steering
from trait_service.engine.spec import CaptureSpec, RequestSpec
from trait_service.engine_link.bank_client import BankClient
from trait_service.engine_link.capture_slots import CaptureSlots
from trait_service.engine_link.engine_client import SteeredEngineClient, reads_prompt, steered
from trait_service.engine_link.lens_room import LensRoom
from trait_service.engine_link.result_fetcher import ResultFetcher
from trait_service.engine_link.run import Run
from trait_service.engine_link.workers import Workers
from trait_service.errors import PromptRefusedError
from trait_service.http.openai import stream_with_report
from trait_service.registry.registry import VectorRegistry
from trait_service.registry.uses import VectorUses
from trait_service.resolving.landmarks import Finder
from trait_service.resolving.placing import Placer
from trait_service.resolving.stream_lens import LensLimits
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

BOS = 1


def spell(ids) -> str:
    """A tokenizer whose tokens are characters."""
    return "".join(map(chr, ids))


class MemoryEngine:
    """vLLM's engine client as the seam sees it; it reports to the workers, as a real one does."""

    def __init__(self, workers, *, error: str | None = None, report: bool = True) -> None:
        self.workers = workers
        self.requests: list[tuple[dict, SamplingParams]] = []
        self.aborted = 0
        self.error = error
        self.report = report
        self.model_config = "passed through"

    async def generate(self, prompt, params, *_, **__):
        self.requests.append((prompt, params))
        spec = RequestSpec.from_extra_args(params.extra_args)
        try:
            if spec is not None and spec.terms:
                assert {term.direction for term in spec.terms} <= self.workers.bank.keys()
            yield SimpleNamespace(finished=False, text="one", outputs=[])
            await asyncio.sleep(0)
            if spec is not None and self.report:
                self.workers.results[spec.key] = {
                    "key": spec.key,
                    "n_prompt": 3,
                    "steered_prompt": 3,
                    "steered_generated": 1,
                    "steered_cached": 2,
                    "acted": ((3, 1),),
                    "error": self.error,
                    "bound_hits": (),
                }
            yield SimpleNamespace(finished=True, text="two", outputs=[])
        except GeneratorExit:
            self.aborted += 1
            raise


@pytest.fixture
def steering(tmp_path, make_vector):
    registry = VectorRegistry(tmp_path / "vectors")
    registry.put("tone", make_vector().to_bytes())
    resolver = resolver_of(registry, operations=("add",))

    def make(coefficient: float = 1.0, **term: object):
        body = {"terms": [{"vector": "tone", "coefficient": coefficient, **term}]}
        return resolver.resolve(Steering.model_validate(body))

    return make


@pytest.fixture
def setup(memory_workers):
    def make(**engine: object):
        workers = memory_workers()
        memory_engine = MemoryEngine(workers, **engine)
        rpc = Workers(workers)
        bank = BankClient(rpc.update_bank, workers.rows)
        fetcher = ResultFetcher(rpc.collect, rpc.discard, rpc.projections)
        lens = LensRoom(LensLimits(n_layers=6, max_readings=8), CaptureSlots(4), str)
        placer = Placer(Finder(spell, None), spell, lambda text: [ord(text)] if len(text) == 1 else [1, 2])
        return memory_engine, SteeredEngineClient(memory_engine, bank, fetcher, VectorUses(), BOS, str, lens, 8, placer)

    return make


def prompt(*ids: int, **extra: object) -> dict:
    return {"type": "token", "prompt_token_ids": list(ids or (BOS, 5, 6)), **extra}


async def texts(outputs) -> list[str]:
    return [output.text async for output in outputs]


def test_everything_but_generate_is_the_engines_own(setup):
    _, client = setup()
    assert client.model_config == "passed through"


def test_it_is_taken_for_the_engine_by_routes_that_ask(setup):
    engine, client = setup()
    assert isinstance(client, type(engine))
    assert type(client) is SteeredEngineClient


def test_an_unsteered_request_passes_as_it_is(setup):
    engine, client = setup()
    request, params = prompt(cache_salt="mine"), SamplingParams()
    assert asyncio.run(texts(client.generate(request, params, "r"))) == ["one", "two"]
    assert engine.requests == [(request, params)]
    assert engine.workers.calls == []


def test_a_steered_request_holds_its_directions_and_brings_a_report(setup, steering):
    engine, client = setup()
    run = Run(steering())

    async def scenario() -> None:
        with steered(run):
            outputs = client.generate(prompt(), SamplingParams(), "r")
        assert await texts(outputs) == ["one", "two"]

    asyncio.run(scenario())
    report = run.report()
    assert report.positions.model_dump() == {"prompt": 3, "generated": 1, "cached": 2}
    assert report.applied[0].vector == "tone"
    assert engine.workers.results == {}


def test_positions_are_summed_over_the_prompts_of_one_request(setup, steering):
    _, client = setup()
    run = Run(steering())

    async def scenario() -> None:
        await asyncio.gather(*(texts(client.run(run, prompt(), SamplingParams(), f"r{i}")) for i in range(3)))

    asyncio.run(scenario())
    assert run.report().positions.prompt == 9


def test_nothing_outside_the_route_is_steered(setup, steering):
    engine, client = setup()
    with steered(Run(steering())):
        pass
    asyncio.run(texts(client.generate(prompt(), SamplingParams(), "r")))
    assert engine.requests[0][1].extra_args is None


@pytest.mark.parametrize("engine", [{"error": "no such row"}, {"report": False}])
def test_a_failed_request_never_gets_its_last_output(setup, steering, engine):
    _, client = setup(**engine)
    run = Run(steering())
    served: list[str] = []

    async def scenario() -> None:
        async for output in client.run(run, prompt(), SamplingParams(), "r"):
            served.append(output.text)  # noqa: PERF401 - kept when the next one raises

    with pytest.raises(SteeringFailedError):
        asyncio.run(scenario())
    assert served == ["one"]
    with pytest.raises(SteeringFailedError):
        run.report()


def test_a_client_that_leaves_frees_its_rows_and_its_result(setup, steering):
    engine, client = setup()

    async def scenario() -> None:
        async with aclosing(client.run(Run(steering()), prompt(), SamplingParams(), "r")) as outputs:
            await anext(outputs)
        for _ in range(10):
            await asyncio.sleep(0)
        assert engine.aborted == 1
        assert len(engine.workers.called("trait_discard")) == 1
        assert client._bank._references == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("run_of", [lambda _: None, Run])
def test_a_double_bos_is_refused_before_a_stream_begins(setup, steering, run_of):
    engine, client = setup()
    with pytest.raises(PromptRefusedError, match="two BOS"):
        client.run(run_of(steering()), prompt(BOS, BOS, 5), SamplingParams(), "r")
    assert engine.requests == []


@pytest.mark.parametrize("ids", [(BOS,), (BOS, 5, BOS, str), (5, BOS, BOS), (5, 5)])
def test_other_prompts_are_no_double_bos(setup, ids):
    engine, client = setup()
    asyncio.run(texts(client.generate(prompt(*ids), SamplingParams(), "r")))
    assert [sent for sent, _ in engine.requests] == [prompt(*ids)]


def test_a_spec_that_comes_from_outside_never_reaches_the_worker(setup):
    _, client = setup()
    with pytest.raises(VLLMValidationError, match="reserved"):
        client.generate(prompt(), SamplingParams(extra_args={"trait_steering": "{}"}), "r")


def test_a_users_own_extra_args_stay(setup, steering):
    engine, client = setup()
    asyncio.run(texts(client.run(Run(steering()), prompt(), SamplingParams(extra_args={"mine": 1}), "r")))
    assert engine.requests[0][1].extra_args.keys() == {"mine", "trait_steering"}


def test_embeddings_are_not_steered(setup, steering):
    _, client = setup()
    with pytest.raises(VLLMValidationError, match="embeddings"):
        client.run(Run(steering()), {"type": "embeds"}, SamplingParams(), "r")


def test_a_capture_of_several_samples_is_refused(setup):
    _, client = setup()
    with pytest.raises(VLLMValidationError, match="n = 1"):
        client.run(Run(capture=CaptureSpec(positions=["prompt[:]"])), prompt(), SamplingParams(n=2), "r")


def test_a_users_own_cache_salt_stays(setup, steering):
    engine, client = setup()
    request = prompt(cache_salt="mine")
    asyncio.run(texts(client.run(Run(steering()), request, SamplingParams(), "r")))
    assert engine.requests[0][0] == request


@pytest.mark.parametrize(
    ("positions", "reads"),
    [
        (["prompt[-1]"], True),
        (["all[4:]"], False),
        (["all[2:]"], True),
        (["response[:]"], False),
        (["response[:]", "prompt[:]"], True),
    ],
)
def test_captures_that_read_the_prompt_do_not_read_the_cache(setup, positions, reads):
    engine, client = setup()
    capture = CaptureSpec(positions=positions)
    asyncio.run(texts(client.run(Run(capture=capture), prompt(), SamplingParams(), "r")))
    assert reads_prompt(capture, 3) is reads
    assert bool(engine.requests[0][1].skip_reading_prefix_cache) is reads


USAGE = 'data: {"id": "c", "choices": [], "usage": {"total_tokens": 5}}\n\n'


async def vllm_stream(client, run, *, prompts=1, usage=False):
    """What vLLM's handler streams: the pieces of every prompt, the last of each with its finish reason."""
    outputs = [client.run(run, prompt(), SamplingParams(), f"r{i}") for i in range(prompts)]
    for i, each in enumerate(outputs):
        async for output in each:
            for text, reason in (("a", None), (output.text, "stop")) if output.finished else ((output.text, None),):
                choice = {"index": i, "text": text, "finish_reason": reason}
                yield f"data: {json.dumps({'id': 'c', 'created': 1, 'model': 'm', 'choices': [choice]})}\n\n"
    if usage:
        yield USAGE
    yield "data: [DONE]\n\n"


def reported(stream, run, kind="text_completion"):
    async def scenario() -> list[str]:
        return [chunk async for chunk in stream_with_report(stream, run, kind)]

    return asyncio.run(scenario())


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("usage", [False, True])
def test_the_report_of_a_stream_is_in_the_last_chunk_with_a_finish_reason(setup, steering, prompts, usage):
    """No chunk of ours is without a choice: clients read `choices[0]` of every chunk."""
    run = Run(steering())
    _, client = setup()
    chunks = reported(vllm_stream(client, run, prompts=prompts, usage=usage), run)
    assert chunks.pop() == "data: [DONE]\n\n"
    if usage:
        assert json.loads(chunks.pop().removeprefix("data: ")) == json.loads(USAGE.removeprefix("data: "))
    events = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert [event["choices"][0]["finish_reason"] for event in events][-1] == "stop"
    assert sum(event["choices"][0]["finish_reason"] == "stop" for event in events) == prompts
    assert ["steering" in event for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["steering"]["applied"]
    assert all(len(event["choices"]) == 1 for event in events)


@pytest.mark.parametrize(("kind", "part"), [("chat.completion.chunk", "delta"), ("text_completion", "text")])
def test_a_stream_without_a_single_chunk_still_reports_with_a_choice(setup, steering, kind, part):
    run = Run(steering())
    _, client = setup()

    async def nothing():
        async for _ in client.run(run, prompt(), SamplingParams(), "r"):
            pass
        yield "data: [DONE]\n\n"

    only, done = reported(nothing(), run, kind)
    event = json.loads(only.removeprefix("data: "))
    assert done == "data: [DONE]\n\n"
    assert event["steering"]["applied"]
    assert event["object"] == kind
    assert part in event["choices"][0]


def test_an_error_after_the_last_token_takes_the_place_of_the_report(setup, steering):
    run = Run(steering())
    _, client = setup()

    async def fails():
        async for chunk in vllm_stream(client, run):
            if not chunk.startswith("data: [DONE]"):
                yield chunk
        yield 'data: {"error": {"message": "failed"}}\n\n'
        yield "data: [DONE]\n\n"

    chunks = reported(fails(), run)
    assert not any("applied" in chunk for chunk in chunks)
    assert '"finish_reason":"stop"' in chunks[-3]
    assert "error" in chunks[-2]


def test_a_stream_that_failed_has_an_error_and_no_report(steering):
    run = Run(steering())

    async def failed():
        yield 'data: {"error": {"message": "failed"}}\n\n'
        yield "data: [DONE]\n\n"

    assert not any("applied" in chunk for chunk in reported(failed(), run))


def test_files_are_in_use_while_their_request_runs_and_no_longer(setup, steering):
    _, client = setup()
    run = Run(steering())

    async def scenario() -> None:
        outputs = client.run(run, prompt(), SamplingParams(), "r")
        await anext(outputs)
        assert client._uses.hashes() == {term.sha256 for term in run.steering.applied}
        await outputs.aclose()
        assert client._uses.hashes() == set()

    asyncio.run(scenario())
