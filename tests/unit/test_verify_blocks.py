"""The decoder blocks of transformers' models are found whatever the list is called, and whatever lies beside them."""

import pytest
import torch
from trait_service.verify.blocks import BlocksNotFoundError, decoder_blocks

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 2}
MAMBA2 = {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "num_hidden_layers": 3, "hidden_size": 32}
BLOCKS = {
    "llama": "LlamaDecoderLayer",
    "gpt2": "GPT2Block",
    "gptj": "GPTJBlock",
    "bloom": "BloomBlock",
    "falcon": "FalconDecoderLayer",
    "mpt": "MptBlock",
    "gpt_neox": "GPTNeoXLayer",
    "opt": "OPTDecoderLayer",
    "phi": "PhiDecoderLayer",
    "mamba2": "Mamba2Block",
    "olmo2": "Olmo2DecoderLayer",
    "granite": "GraniteDecoderLayer",
    "cohere2": "Cohere2DecoderLayer",
    "stablelm": "StableLmDecoderLayer",
    "nemotron": "NemotronDecoderLayer",
    "lfm2": "Lfm2DecoderLayer",
}
OPTIONS = {
    "gpt2": GPT2,
    "gptj": {**GPT2, "rotary_dim": 4},
    "bloom": {"n_layer": 3, "n_head": 2, "hidden_size": 32, "vocab_size": 64},
    "mpt": {"n_layers": 3, "n_heads": 2, "d_model": 32, "vocab_size": 64},
    "mamba2": MAMBA2,
    "opt": {**COMMON, "ffn_dim": 32, "word_embed_proj_dim": 32},
}


def built(kind, **options):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options))


@pytest.mark.parametrize(("kind", "block"), BLOCKS.items(), ids=BLOCKS)
def test_the_blocks_are_found(kind, block):
    blocks = decoder_blocks(built(kind, **OPTIONS.get(kind, COMMON)), 3)
    assert [type(each).__name__ for each in blocks] == [block] * 3


def test_experts_as_many_as_blocks_are_not_blocks():
    from torch import nn

    model = nn.Module()
    model.layers = nn.ModuleList(nn.Module() for _ in range(3))
    for block in model.layers:
        block.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert decoder_blocks(model, 3) == list(model.layers)


def test_a_vision_tower_as_deep_as_the_language_model_is_not_taken():
    text = {**COMMON, "head_dim": 16}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = built("gemma3", text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    assert {type(block).__name__ for block in decoder_blocks(model, 3)} == {"Gemma3DecoderLayer"}


def test_the_error_says_what_was_found_instead():
    with pytest.raises(
        BlocksNotFoundError, match=r"one list of 5 decoder blocks, found none among \{'model.layers': 3\}"
    ):
        decoder_blocks(built("llama", **COMMON), 5)
