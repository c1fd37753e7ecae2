"""Training the organism: the loss is of the reply's tokens alone, and only the adapter learns."""

import pytest
import torch
from lora_organism.train import reply_loss, train
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

EXAMPLES = [([1, 2, 3], [4, 5]), ([6, 7], [8, 9, 10]), ([1, 2, 3, 4, 5], [6])]


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))


def test_the_loss_is_the_mean_over_reply_tokens_whatever_the_padding(model):
    one_by_one = []
    for prompt, reply in EXAMPLES:
        ids = torch.tensor([[*prompt, *reply]])
        logprobs = model(input_ids=ids).logits.log_softmax(-1)[0]
        at = range(len(prompt) - 1, len(prompt) + len(reply) - 1)
        one_by_one += [-logprobs[i, ids[0, i + 1]].item() for i in at]
    loss = reply_loss(model, EXAMPLES, pad=0).item()
    assert loss == pytest.approx(sum(one_by_one) / len(one_by_one), abs=1e-5)


def test_training_lowers_the_loss_and_leaves_the_base_weights_alone(model):
    frozen = {n: w.detach().clone() for n, w in model.named_parameters() if "lora" not in n}
    before = reply_loss(model, EXAMPLES, pad=0).item()
    train(model, EXAMPLES, 0, epochs=20)
    assert reply_loss(model, EXAMPLES, pad=0).item() < before
    assert all(torch.equal(w, frozen[n]) for n, w in model.named_parameters() if "lora" not in n)
