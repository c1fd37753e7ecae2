"""Models with random weights that start in seconds, for tests that ask how an engine runs and not how well it writes."""

from pathlib import Path
from typing import Any

import torch

N_LAYERS = 4
D_MODEL = 64
COMMON = {
    "hidden_size": D_MODEL,
    "intermediate_size": 128,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
GEMMA3N = {
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 49152,
    "laurel_rank": 8,
    "layer_types": ["full_attention"] * N_LAYERS,
    "activation_sparsity_pattern": [0.0] * N_LAYERS,
}


def make_llama(folder: Path, tokenizer_from: Path) -> Path:
    """Write a Llama with another model's tokenizer."""
    return _make("llama", {"num_key_value_heads": 2}, folder, tokenizer_from)


def make_granite(folder: Path, tokenizer_from: Path) -> Path:
    """Write a Granite, whose logits are scaled by 1/8."""
    scales = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0}
    return _make("granite", {"num_key_value_heads": 2, **scales, "attention_multiplier": 0.125}, folder, tokenizer_from)


def make_gemma3n(folder: Path, tokenizer_from: Path) -> Path:
    """Write a Gemma 3n, whose layers carry four streams in parallel."""
    return _make("gemma3n_text", GEMMA3N, folder, tokenizer_from)


def _make(kind: str, options: dict[str, Any], folder: Path, tokenizer_from: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    config = AutoConfig.for_model(
        kind,
        **COMMON,
        **options,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)  # wider than a fresh model's: its logits must not be flat
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
