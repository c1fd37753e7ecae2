"""Models that vLLM serves through its Transformers backend are steered as transformers with a hook on the same block is: see `architecture_parity`."""

import architecture_parity
import pytest
import tiny_models

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("architecture", tiny_models.TRANSFORMERS_BACKEND)
def test_steering_and_capture_equal_a_hook_on_the_same_block(architecture, smollm2_path, tmp_path, run_engine):
    architecture_parity.check(architecture, smollm2_path, tmp_path, run_engine)
