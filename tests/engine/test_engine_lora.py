"""Requests of the base model and of a LoRA adapter, steered and not, in one batch: each equals transformers with peft and
a hook. vLLM turns compilation off on the CPU where adapters are on, so that there is no compiled case."""

import numpy as np
import pytest
import torch
from engine_harness import Job, Reference, Req, assert_lens_equals, direction, largest_difference
from trait_service.engine.spec import CaptureSpec, RequestSpec, TermSpec

pytestmark = pytest.mark.engine

N_TOKENS = 10
LAYER = 14
VALUE = 25.0


@pytest.fixture(scope="module")
def adapted(smollm2_path, tmp_path_factory) -> tuple[Reference, str]:
    """The model with an adapter of random weights on every projection, and the adapter's folder."""
    from peft import LoraConfig, PeftModel, get_peft_model

    folder = str(tmp_path_factory.mktemp("lora"))
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(0)
    made = get_peft_model(
        Reference(str(smollm2_path)).model, LoraConfig(r=8, lora_alpha=16, target_modules=projections)
    )
    for name, weight in made.named_parameters():
        if "lora_B" in name:  # zero as made: the adapter would do nothing
            torch.nn.init.normal_(weight, std=0.01)
    made.save_pretrained(folder)
    loaded = Reference(str(smollm2_path))
    loaded.model = PeftModel.from_pretrained(loaded.model, folder).base_model.model.eval()
    return loaded, folder


def test_base_and_adapter_steered_and_not_in_one_batch_equal_peft_with_a_hook(
    run_engine, reference, smollm2_path, adapted
):
    base = reference(smollm2_path)
    with_adapter, folder = adapted
    prompt = base.tokenizer.encode("The museum opens at nine, and the first visitors are usually")
    d = direction(base.d_model, seed=7)
    steering = RequestSpec(
        key="steered",
        terms=[TermSpec(layer=LAYER, direction=d.sha256, value=VALUE)],
        capture=CaptureSpec(positions=["prompt[:]"]),
    )
    cases = {"base": (base, None), "adapter": (with_adapter, folder)}
    batch = [
        Req(prompt, spec, N_TOKENS, lora=lora)
        for name, (_, lora) in cases.items()
        for spec in (None, steering.model_copy(update={"key": name}).model_dump_json())
    ]
    # Prompts of two lengths whose own log-probabilities are read: neither is as long as the batch is large.
    read = [
        Req(prompt[:n], None, 1, lora=lora, prompt_logprobs=True)
        for n, (_, lora) in zip((9, 11), cases.values(), strict=True)
    ]
    batch += read
    options = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 1}
    result = run_engine(Job(smollm2_path, [batch], directions=[d], options=options, lens=[d]))
    assert_lens_equals(result, base, [d])

    def add(stream, _):
        return stream + VALUE * torch.from_numpy(d.array)

    outputs = iter(result.batches[0])
    firsts = []
    for name, (ref, _) in cases.items():
        for changes in ({}, {LAYER: add}):
            output = next(outputs)
            tokens, logprobs = ref.greedy(prompt, N_TOKENS, changes)
            assert output["token_ids"] == tokens, (name, bool(changes))
            assert largest_difference(output["logprobs"], logprobs) < 1e-3, (name, bool(changes))
            firsts.append(logprobs[0])
        # Below the steered layer the stream is the adapted model's own.
        streams = ref.streams(prompt).numpy()[:LAYER].mean(1)
        error = np.linalg.norm(result.captures(0)[f"{name}/mean"][0, :LAYER] - streams, axis=-1)
        assert (error / np.linalg.norm(streams, axis=-1)).max() < 1e-4, name
    for i in range(4):
        assert all(abs(firsts[i] - firsts[j]).max() > 0.05 for j in range(i)), "adapter and steering both take effect"
    for request, (ref, _), output in zip(read, cases.values(), outputs, strict=True):
        expected = ref.logprobs_of(request.token_ids)
        assert len(output["prompt_logprobs"]) == len(request.token_ids) - 1
        np.testing.assert_allclose(output["prompt_logprobs"], expected, atol=1e-3)
