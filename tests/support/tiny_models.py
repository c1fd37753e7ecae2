"""Models with random weights that start in seconds, for tests that ask how an engine runs and not how well it writes.

`MODELS` is the table: architecture -> what its config needs beyond `COMMON`. A hybrid has a layer of each of its kinds.
Windows and chunks of attention are multiples of 128, the block size of vLLM's CPU engine.
"""

import json
from dataclasses import dataclass, field
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
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}
GEMMA3N = {
    "head_dim": 32,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 49152,
    "laurel_rank": 8,
    "layer_types": ["full_attention"] * N_LAYERS,
    "activation_sparsity_pattern": [0.0] * N_LAYERS,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LATENT = {  # multi-head latent attention, as DeepSeek's
    "num_key_value_heads": 2,
    "kv_lora_rank": 512,  # with the rotary part 576 wide: the one width that vLLM's kernels know
    "q_lora_rank": None,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
}
# With vLLM's own operations for the CPU their logits differ from transformers', with these in torch they do not.
IN_TORCH = {"compilation_config": {"custom_ops": ["none"]}}
SLIDING = {"sliding_window": 128, "head_dim": 32}
GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.2,
    "logits_scaling": 8.0,
}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 32, "mamba_n_groups": 1, "mamba_chunk_size": 128}
HUNYUAN = {
    "first_k_dense_replace": 1,
    "expert_hidden_dim": 64,
    "route_norm": True,
    "qk_norm": True,
}  # as real ones have


@dataclass(frozen=True)
class Tiny:
    """A model to be made.

    `kind`: the `model_type` of transformers. `options`: what its config has beyond `COMMON`. `engine`: options of `LLM`.
    `spread`: standard deviation of its weights.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    spread: float = 0.1


DENSE = {
    "ApertusForCausalLM": Tiny("apertus", spread=0.05),
    "BloomForCausalLM": Tiny("bloom", {"n_layer": N_LAYERS, "n_head": 2}),
    "CohereForCausalLM": Tiny("cohere"),
    "Cohere2ForCausalLM": Tiny("cohere2", {"sliding_window": 128}),
    "Ernie4_5ForCausalLM": Tiny("ernie4_5", {"head_dim": 32}),
    "Exaone4ForCausalLM": Tiny("exaone4", {"sliding_window": 128}),
    "FalconForCausalLM": Tiny("falcon"),
    "GemmaForCausalLM": Tiny("gemma", {"head_dim": 32}),
    "Gemma2ForCausalLM": Tiny("gemma2", {**SLIDING, "query_pre_attn_scalar": 32}),
    "Gemma3ForCausalLM": Tiny("gemma3_text", {**SLIDING, "query_pre_attn_scalar": 32}),
    "Gemma4ForCausalLM": Tiny("gemma4_text", {**SLIDING, "hidden_size_per_layer_input": 0}),
    "Glm4ForCausalLM": Tiny("glm4", {"head_dim": 32}),
    "GPT2LMHeadModel": Tiny("gpt2", {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 512}),
    "GPTJForCausalLM": Tiny(
        "gptj", {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 512, "rotary_dim": 16}
    ),
    "GraniteForCausalLM": Tiny("granite", GRANITE),
    "HyperCLOVAXForCausalLM": Tiny("hyperclovax"),
    "LlamaForCausalLM": Tiny("llama"),
    "Ministral3ForCausalLM": Tiny("ministral3", {"head_dim": 32}),
    "MiniCPM3ForCausalLM": Tiny("minicpm3", {**LATENT, "q_lora_rank": 32}),
    "MistralForCausalLM": Tiny("mistral", SLIDING),
    "NemotronForCausalLM": Tiny("nemotron"),
    "OPTForCausalLM": Tiny("opt", {"ffn_dim": 128, "word_embed_proj_dim": D_MODEL}),
    "Phi3ForCausalLM": Tiny("phi3"),
    "Qwen2ForCausalLM": Tiny("qwen2"),
    "Qwen3ForCausalLM": Tiny("qwen3", {"head_dim": 32}),
    "StableLmForCausalLM": Tiny("stablelm"),
}
"""Transformers without experts."""

EXPERT_MIXTURES = {
    "AfmoeForCausalLM": Tiny(
        "afmoe",
        {
            **EXPERTS,
            **SLIDING,
            "num_shared_experts": 1,
            "score_func": "sigmoid",
            "route_norm": True,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "Cohere2MoeForCausalLM": Tiny("cohere2_moe", {**EXPERTS, **SLIDING}),
    "DeepseekV2ForCausalLM": Tiny(
        "deepseek_v2", {**LATENT, **ROUTED, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}, IN_TORCH
    ),
    "DeepseekV3ForCausalLM": Tiny(
        "deepseek_v3",
        {
            **LATENT,
            **ROUTED,
            "q_lora_rank": 32,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
        },
        IN_TORCH,
    ),
    "Ernie4_5_MoeForCausalLM": Tiny(
        "ernie4_5_moe",
        {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": 64},
    ),
    "ExaoneMoeForCausalLM": Tiny("exaone_moe", {**EXPERTS, "sliding_window": 128}),
    "Glm4MoeForCausalLM": Tiny("glm4_moe", {**ROUTED, "head_dim": 32}),
    "Glm4MoeLiteForCausalLM": Tiny(
        "glm4_moe_lite", {**LATENT, **ROUTED, "q_lora_rank": 32, "first_k_dense_replace": 1}, IN_TORCH
    ),
    "GptOssForCausalLM": Tiny("gpt_oss", {**EXPERTS, **SLIDING, "intermediate_size": 64}),
    "GraniteMoeForCausalLM": Tiny("granitemoe", {**EXPERTS, **GRANITE}),
    "GraniteMoeSharedForCausalLM": Tiny("granitemoeshared", {**EXPERTS, **GRANITE, "shared_intermediate_size": 64}),
    "HYV3ForCausalLM": Tiny("hy_v3", {**EXPERTS, **HUNYUAN, "head_dim": 32}),
    "Llama4ForCausalLM": Tiny(
        "llama4_text",
        {
            "head_dim": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 128,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 128,
        },
    ),
    "MixtralForCausalLM": Tiny("mixtral", EXPERTS),
    "OlmoeForCausalLM": Tiny("olmoe", EXPERTS),
    "Qwen2MoeForCausalLM": Tiny("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 64}),
    "Qwen3MoeForCausalLM": Tiny("qwen3_moe", {**EXPERTS, "head_dim": 32}),
}
"""Mixtures of experts, with latent attention or without."""

HYBRIDS = {
    "FalconH1ForCausalLM": Tiny("falcon_h1", {**MAMBA2, "mamba_d_ssm": 128, "head_dim": 32}),
    "GraniteMoeHybridForCausalLM": Tiny(
        "granitemoehybrid",
        {
            **EXPERTS,
            **GRANITE,
            **MAMBA2,
            "shared_intermediate_size": 64,
            "layer_types": ["linear_attention", "full_attention"] * (N_LAYERS // 2),
        },
    ),
    "Mamba2ForCausalLM": Tiny("mamba2", {"head_dim": 32, "num_heads": 4, "state_size": 32, "n_groups": 1}),
    "NemotronHForCausalLM": Tiny(
        "nemotron_h",
        {
            **ROUTED,
            "head_dim": 32,
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
            "moe_shared_expert_intermediate_size": 64,
            "ssm_state_size": 32,
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "n_groups": 1,
        },
    ),
    "Zamba2ForCausalLM": Tiny(
        "zamba2",
        {
            "layers_block_type": ["linear_attention", "hybrid"] * (N_LAYERS // 2),
            "num_key_value_heads": 2,
            "mamba_d_state": 32,
            "n_mamba_heads": 4,
            "adapter_rank": 8,
        },
    ),
}
"""State-space models, most of them mixed with attention."""

TRANSFORMERS_BACKEND = {
    "ArceeForCausalLM": Tiny("arcee"),
    "CwmForCausalLM": Tiny("cwm", SLIDING),
    "FlexOlmoForCausalLM": Tiny("flex_olmo", {"num_experts": 4, "num_experts_per_tok": 2}),
    "GlmForCausalLM": Tiny("glm", {"head_dim": 32}),
    "GPTBigCodeForCausalLM": Tiny(
        "gpt_bigcode", {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 512}
    ),
    "GPTNeoXForCausalLM": Tiny("gpt_neox", {"num_key_value_heads": 2}),
    "HeliumForCausalLM": Tiny("helium", {"head_dim": 32}),
    "HunYuanDenseV1ForCausalLM": Tiny("hunyuan_v1_dense", {"head_dim": 32}),
    "Jais2ForCausalLM": Tiny("jais2", {"head_dim": 32}),
    "MellumForCausalLM": Tiny("mellum", {**EXPERTS, **SLIDING}),
    "OlmoForCausalLM": Tiny("olmo"),
    "Olmo2ForCausalLM": Tiny("olmo2"),
    "Olmo3ForCausalLM": Tiny("olmo3", {"sliding_window": 128}),
    "PhiForCausalLM": Tiny("phi"),
    "SeedOssForCausalLM": Tiny("seed_oss", {"head_dim": 32}),
    "SmolLM3ForCausalLM": Tiny("smollm3"),
    "Starcoder2ForCausalLM": Tiny("starcoder2"),
    "VaultGemmaForCausalLM": Tiny("vaultgemma", {**SLIDING, "query_pre_attn_scalar": 32}),
}
"""Models that vLLM serves through its Transformers backend: transformers' own layers."""

MODELS = DENSE | EXPERT_MIXTURES | HYBRIDS | TRANSFORMERS_BACKEND


def make(architecture: str, folder: Path, tokenizer_from: Path, **options: Any) -> Path:
    """Write a model of `MODELS`; `options` go into its config too."""
    tiny = MODELS[architecture]
    made = _make(tiny.kind, tiny.options | options, folder, tokenizer_from, tiny.spread)
    config = json.loads((made / "config.json").read_text())
    config["architectures"] = [architecture]  # transformers and vLLM differ in the name of a few
    (made / "config.json").write_text(json.dumps(config))
    return made


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


def _make(kind: str, options: dict[str, Any], folder: Path, tokenizer_from: Path, spread: float = 0.1) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    config = AutoConfig.for_model(
        kind,
        **{
            **COMMON,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **options,
        },
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "correction_bias" not in name:
            torch.nn.init.normal_(weight, std=spread)  # wider than a fresh model's: its logits must not be flat
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
