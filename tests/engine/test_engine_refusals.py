"""An engine that steering was not tested with does not start, whoever builds it."""

import asyncio

import httpx
import numpy as np
import pytest
from engine_harness import Job, Req
from package_metadata import distribution
from trait_core.errors import SteeringFailedError
from trait_service.engine import refusals
from trait_service.engine.errors import UnsupportedEngineError
from trait_service.engine.settings import EngineSettings, engine_args
from trait_service.engine_link.workers import Workers

pytestmark = pytest.mark.engine


@pytest.fixture
def config(smollm2_path):
    """vLLM's configuration of an engine with the plugin, as its workers get it."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(smollm2_path),
        dtype="float32",
        enforce_eager=True,
        **engine_args(EngineSettings(bank_rows=7), cuda=False),
    ).create_engine_config()


def test_a_plain_engine_is_not_refused(config):
    assert refusals.check(config).bank_rows == 7


@pytest.mark.parametrize(
    ("part", "choice", "value", "named"),
    [
        ("", "speculative_config", object(), "speculative decoding"),
        ("parallel_config", "enable_dbo", True, "micro-batch overlap"),
        ("parallel_config", "ubatch_size", 2, "micro-batch overlap"),
        ("parallel_config", "prefill_context_parallel_size", 2, "context parallelism"),
        ("parallel_config", "decode_context_parallel_size", 2, "context parallelism"),
        ("", "kv_transfer_config", object(), "KV connector"),
        ("cache_config", "kv_sharing_fast_prefill", True, "fast prefill"),
        ("parallel_config", "enable_hc_sp", True, "sequence parallelism"),
        ("scheduler_config", "async_scheduling", True, "it must be .*TraitAsyncScheduler"),
        ("scheduler_config", "scheduler_cls", None, "scheduler_cls"),
        ("", "diffusion_config", object(), "diffusion decoding"),
        ("", "additional_config", {}, "no block"),
        ("model_config", "is_encoder_decoder", True, "an encoder-decoder model is not supported"),
        ("model_config", "runner_type", "pooling", "--runner pooling writes no text"),
    ],
)
def test_a_worker_refuses_each_choice_by_name(config, part, choice, value, named):
    setattr(getattr(config, part) if part else config, choice, value)
    with pytest.raises(UnsupportedEngineError, match=named):
        refusals.check(config)


def test_a_worker_refuses_int4_weights_in_float32(config):
    groups = {"group_0": {"weights": {"type": "int", "num_bits": 4}}}
    config.model_config.hf_config.quantization_config = {"config_groups": groups}
    with pytest.raises(UnsupportedEngineError, match="--dtype bfloat16"):
        refusals.check(config)


def test_a_worker_refuses_breakable_cuda_graphs(config, monkeypatch):
    monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", "1")
    with pytest.raises(UnsupportedEngineError, match="VLLM_USE_BREAKABLE_CUDAGRAPH=0"):
        refusals.check(config)


def test_a_worker_refuses_another_platform(config, monkeypatch):
    from vllm.platforms.interface import Platform, PlatformEnum

    rocm = type("Rocm", (Platform,), {"_enum": PlatformEnum.ROCM, "device_name": "rocm", "device_type": "cuda"})()
    monkeypatch.setattr("vllm.platforms._current_platform", rocm)
    with pytest.raises(UnsupportedEngineError, match="ROCm is not supported"):
        refusals.check(config)


def test_a_worker_refuses_another_release_of_vllm_unless_it_is_allowed(config, tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(distribution(tmp_path, "vllm", "9.9.0+cpu"))
    with pytest.raises(UnsupportedEngineError, match=r"vLLM 9\.9\.0\+cpu is not supported"):
        refusals.check(config)
    config.additional_config = EngineSettings(allow_untested_vllm=True).to_additional_config()
    with caplog.at_level("WARNING", logger="trait_service"):
        refusals.check(config)
    assert "not tested with vLLM 9.9.0+cpu (supported: >=0.32,<0.34)" in caplog.text


def test_experts_in_several_engines_are_refused():
    """Their engines run dummy steps beside each other's; no such model is at hand to test."""
    choices = dict.fromkeys(refusals.EngineOptions.__dataclass_fields__, False)
    (problem,) = refusals.EngineOptions(**{**choices, "lockstep": True}).refusals()
    assert "mixture of experts" in problem


def test_an_engine_built_without_the_command_line_stops_before_it_loads_the_model(run_engine, smollm2_path):
    options = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}}
    with pytest.raises(AssertionError, match=r"speculative decoding .* is not supported together with steering"):
        run_engine(Job(smollm2_path, [[Req([1, 2, 3])]], options=options))


@pytest.fixture(scope="module")
def two_workers(smollm2_path):
    """A service on two workers, whose context is shorter than the text that residual norms are measured on."""
    from trait_service.in_process import InProcessService

    flags = ["--max-model-len", "64", "--served-model-name", "smollm2", "--pipeline-parallel-size", "2"]
    service = InProcessService(str(smollm2_path), flags, enforce_eager=True)
    yield service
    service.close()


@pytest.fixture
def client(two_workers):
    from trait_steering.transport import ApplicationTransport

    headers = {"Authorization": f"Bearer {two_workers.api_key}"}
    with httpx.Client(transport=ApplicationTransport(two_workers), base_url="http://x", headers=headers) as client:
        yield client


def test_a_context_that_is_shorter_than_the_neutral_text_has_residual_norms_too(two_workers, client):
    from safetensors.numpy import load
    from trait_service.reading.residual_norms import NEUTRAL_TEXT

    ids = two_workers.app.state.engine_client.renderer.get_tokenizer().encode(NEUTRAL_TEXT)
    assert len(ids) > client.get("/v1/models").json()["data"][0]["max_model_len"] == 64
    body = {"inputs": [{"token_ids": ids[:63]}], "positions": ["all[4:]"]}
    read = load(client.post("/v1/activations", json=body).raise_for_status().content)["norm/all[4:]"][0]
    assert client.get("/v1/steering").json()["residual_norms"] == pytest.approx(read.tolist(), rel=1e-3)


def test_two_workers_that_refuse_a_sleep_or_a_direction_stay_in_step(two_workers, client):
    """vLLM's worker for the CPU does not sleep; what refuses lies before it."""

    def call(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, two_workers.loop).result()

    engine = two_workers.app.state.engine_client
    with pytest.raises(Exception, match=r"sleep level 2 is not supported .*POST /wake_up"):
        call(engine.sleep(2))
    call(engine.wake_up())
    call(engine.sleep(1))
    call(engine.wake_up())
    workers = Workers(engine)
    with pytest.raises(SteeringFailedError, match="3 numbers does not fit d_model 576"):
        call(workers.update_bank({"0" * 64: np.ones(3, "<f4").tobytes()}, []))
    assert [set(stats) >= {"live_requests"} for stats in call(engine.collective_rpc("trait_stats"))] == [True, True]
    body = {"model": "smollm2", "prompt": "Bread is", "max_tokens": 2}
    assert client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 2
