"""A model with random weights that reads images, with the whole of its processor: Idefics 3, a vision tower before a Llama."""

from pathlib import Path

import torch
from tiny_models import D_MODEL, N_LAYERS

IMAGE_TOKENS = 4
"""Tokens of the language model that one image becomes."""
PATCH, SCALE = 14, 2
SIDE = PATCH * SCALE * 2
MARKS = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")


def make_idefics3(folder: Path, tokenizer_from: Path) -> Path:
    """Write an Idefics 3 with another model's tokenizer."""
    from transformers import AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    sizes = {"hidden_size": D_MODEL, "intermediate_size": 128, "num_attention_heads": 2}
    text = {
        "model_type": "llama",
        "num_hidden_layers": N_LAYERS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "vocab_size": len(tokenizer) + (-len(tokenizer)) % 64,
    }
    config = Idefics3Config(
        vision_config={**sizes, "num_hidden_layers": 2, "image_size": SIDE, "patch_size": PATCH},
        text_config={**sizes, **text, **ids},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)  # wider than a fresh model's: its logits must not be flat
    model.save_pretrained(folder)
    side = {"longest_edge": SIDE}
    images = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    Idefics3Processor(image_processor=images, tokenizer=tokenizer, image_seq_len=IMAGE_TOKENS).save_pretrained(folder)
    return folder
