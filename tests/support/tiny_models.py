"""Models with random weights that start in seconds, for tests that ask how an engine runs and not how well it writes."""

from pathlib import Path

import torch

N_LAYERS = 4


def make_llama(folder: Path, tokenizer_from: Path) -> Path:
    """Write a Llama of 4 layers and width 64 with another model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)  # wider than a fresh model's: its logits must not be flat
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
