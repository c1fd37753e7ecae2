"""A model whose layers do not return one residual stream is refused by the real engine, in its first forward pass."""

import pytest
import tiny_models
from engine_harness import Job, Req

pytestmark = pytest.mark.engine

REFUSED = r"UnsupportedModelError: Gemma3nDecoderLayer \(layer 0\) returns shape \(4, \d+, 64\)"


@pytest.fixture(scope="module")
def gemma3n_path(smollm2_path, tmp_path_factory):
    return tiny_models.make_gemma3n(tmp_path_factory.mktemp("tiny-gemma3n"), smollm2_path)


def test_an_eager_engine_that_is_never_profiled_fails_its_first_request(run_engine, gemma3n_path):
    with pytest.raises(AssertionError, match=REFUSED):
        run_engine(Job(gemma3n_path, [[Req([5, 6, 7])]]))


def test_a_compiled_engine_does_not_start(run_engine, gemma3n_path, tmp_path):
    options, env = {"enforce_eager": False}, {"VLLM_CACHE_ROOT": str(tmp_path)}
    with pytest.raises(AssertionError, match=REFUSED):
        run_engine(Job(gemma3n_path, [], options=options, env=env))
