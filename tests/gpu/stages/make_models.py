"""Write models with random weights and a tokenizer of bytes: `make_models.py FOLDER [NAME...]`.

`llama` and `gemma` have weights that bfloat16 holds exactly, so that an engine loads the same model in either dtype.
`shape135m` and `shape8b` are configurations alone, for `load_format="dummy"`.
"""

import argparse
from pathlib import Path
from typing import Any

import bare

END = 256
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SMALL = {"vocab_size": 4096, "num_hidden_layers": 12, "initializer_range": 0.05, "tie_word_embeddings": True}
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**SMOLLM2, **SMALL}),
    "gemma": (
        "gemma3_text",
        {
            **SMALL,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 512,
        },
    ),
    "shape135m": ("llama", {**SMOLLM2, "vocab_size": 49152, "num_hidden_layers": 30, "tie_word_embeddings": True}),
    "shape8b": (
        "llama",
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
        },
    ),
}
WITH_WEIGHTS = ("llama", "gemma")


def make(name: str, folder: Path) -> None:
    """Write one model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, sizes = SHAPES[name]
    config = AutoConfig.for_model(
        kind, **sizes, bos_token_id=END, eos_token_id=END, pad_token_id=END, max_position_embeddings=8192
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    torch.manual_seed(0)
    if name in WITH_WEIGHTS:
        model = AutoModelForCausalLM.from_config(config)
        model.to(torch.bfloat16).to(torch.float32).save_pretrained(folder)
        return
    with torch.device("meta"):  # its class is named in the configuration, and it takes no memory
        config.architectures = [type(AutoModelForCausalLM.from_config(config)).__name__]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)


def _write_tokenizer(folder: Path) -> None:
    """A token for each byte, and one that ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    of_bytes = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<end>": END, **{byte: i for i, byte in enumerate(of_bytes)}}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>", pad_token="<end>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SHAPES)} [default: all]")
    given = parser.parse_args()
    found = bare.report("make_models")

    def work() -> None:
        for name in given.names or SHAPES:
            make(name, given.folder / name)
            size = sum(path.stat().st_size for path in (given.folder / name).iterdir())
            found.row("models", name=name, mib=round(size / 2**20, 1))

    bare.run(found, work)


if __name__ == "__main__":
    main()
