"""A model whose layers do not return one residual stream is refused by the real engine: when it is loaded, or at its first pass."""

import pytest
import tiny_models
from engine_harness import Job, Req

pytestmark = pytest.mark.engine

PROMPT = [5, 6, 7]
SEVERAL_STREAMS = r"UnsupportedModelError: Gemma3nTextDecoderLayer \(layer 0\) returns shape \(4, 1, \d+, 64\)"


@pytest.fixture(scope="module")
def gemma3n_path(smollm2_path, tmp_path_factory):
    return tiny_models.make_gemma3n(tmp_path_factory.mktemp("tiny-gemma3n"), smollm2_path)


def test_a_layer_of_the_second_table_is_refused_when_the_model_is_loaded(run_engine, gemma3n_path):
    refused = r"UnsupportedModelError: gemma3n\.Gemma3nDecoderLayer is not supported: it carries four residual streams"
    with pytest.raises(AssertionError, match=refused):
        run_engine(Job(gemma3n_path, []))


def test_an_eager_engine_that_is_never_profiled_fails_its_first_request(run_engine, gemma3n_path):
    """Through transformers, whose layers are accepted by their kind."""
    with pytest.raises(AssertionError, match=SEVERAL_STREAMS):
        run_engine(Job(gemma3n_path, [[Req(PROMPT)]], options={"model_impl": "transformers"}))


def test_a_compiled_engine_does_not_start(run_engine, gemma3n_path, tmp_path):
    options, env = {"enforce_eager": False, "model_impl": "transformers"}, {"VLLM_CACHE_ROOT": str(tmp_path)}
    with pytest.raises(AssertionError, match=SEVERAL_STREAMS):
        run_engine(Job(gemma3n_path, [], options=options, env=env))
