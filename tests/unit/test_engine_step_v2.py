"""The V2 adapter, against vLLM's own V2 batch structures."""

import numpy as np
import pytest
import torch
from trait_service.engine.runner_view import view_of_v2

pytest.importorskip("vllm")


def test_the_v2_adapter_reads_ids_lengths_positions_and_the_original_prompt_length():
    from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers
    from vllm.v1.worker.gpu.states import RequestState

    device = torch.device("cpu")
    states = RequestState.__new__(RequestState)  # its constructor needs pinned memory; the fields read here do not
    states.req_id_to_index = {"a": 2, "b": 0}
    states.prompt_len = type("Lengths", (), {"np": np.array([7, 0, 30], dtype=np.int32)})()
    batch = InputBatch.make_dummy(2, 6, InputBuffers(4, 16, device))
    batch.req_ids = ["a", "b"]
    batch.num_scheduled_tokens = np.array([5, 1], dtype=np.int32)
    batch.num_computed_tokens_np = np.array([10, 9], dtype=np.int32)
    view = view_of_v2(batch, states, {"a": {"trait_steering": "{}"}})
    assert view.request_ids == ["a", "b"]
    assert view.n_scheduled.tolist() == [5, 1]
    assert view.n_computed.tolist() == [10, 9]
    assert (view.n_prompt("a"), view.n_prompt("b")) == (30, 7)
    assert (view.extra_args("a"), view.extra_args("b")) == ({"trait_steering": "{}"}, None)
