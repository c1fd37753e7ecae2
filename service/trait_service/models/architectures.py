"""The models that are known to be steered right, by the name of their architecture in `config.json`, and how that is known.

The rule of a layer is in `trait_service.engine.layer_rules`, by the layer's class; tests hold this table to that one, to the
classes that a running engine has, and to the parity tests. `docs/reference/models.md` is written from it.
"""

from dataclasses import dataclass
from typing import Literal

from trait_core.schema import HookPoint

Evidence = Literal["parity", "images", "weights", "read"]
"""How a model is known.

- `parity`: a tiny random model of it, in vLLM on a CPU and in float32, equals transformers with a hook on the same block;
- `images`: the same with an image in the prompt, at the positions of the image too;
- `weights`: `trait-service verify` passed on real weights;
- `read`: its source was read; `quirk` says why there is no parity test.
"""


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        layers: The classes whose `forward` its decoder layers run: in vLLM's folder of models, or in full.
        evidence: Ways in which it is known.
        quirk: Particulars, and the reason why there is no parity test.
        hook_points: Hook points that it has beside the stream, known in the same way.
    """

    layers: tuple[str, ...]
    evidence: tuple[Evidence, ...] = ("parity",)
    quirk: str = ""
    hook_points: tuple[HookPoint, ...] = ("attn_out", "mlp_out")


def _of_transformers(kind: str, layer: str, quirk: str = "") -> Architecture:
    return Architecture((f"transformers.models.{kind}.modeling_{kind}.{layer}",), quirk=quirk)


_ROTARY = "on a CPU, vLLM's own operations give other logits than transformers, steered or not: start with -cc.custom_ops='[\"none\"]'"
_LATENT = f"refused in float16; {_ROTARY}"
_UNLIKE = "a tiny model of it differs between vLLM's CPU build and transformers even unsteered, and without the plugin"
_NO_SCAN = "vLLM has no selective scan (Mamba 1) for a CPU"

ARCHITECTURES = {
    "AfmoeForCausalLM": Architecture(("afmoe.AfmoeDecoderLayer",)),
    "ApertusForCausalLM": Architecture(("apertus.ApertusDecoderLayer",)),
    "ArceeForCausalLM": _of_transformers("arcee", "ArceeDecoderLayer"),
    "BloomForCausalLM": Architecture(("bloom.BloomBlock",)),
    "Cohere2ForCausalLM": Architecture(("commandr.CohereDecoderLayer",)),
    "Cohere2MoeForCausalLM": Architecture(("cohere2_moe.Cohere2MoeDecoderLayer",)),
    "CohereForCausalLM": Architecture(("commandr.CohereDecoderLayer",)),
    "CwmForCausalLM": _of_transformers("cwm", "CwmDecoderLayer"),
    "DbrxForCausalLM": Architecture(
        ("dbrx.DbrxBlock",), ("read",), "transformers 5 names its weights as vLLM does not"
    ),
    "DeepseekV2ForCausalLM": Architecture(("deepseek_v2.DeepseekV2DecoderLayer",), quirk=_LATENT),
    "DeepseekV3ForCausalLM": Architecture(("deepseek_v2.DeepseekV2DecoderLayer",), quirk=_LATENT),
    "Ernie4_5ForCausalLM": Architecture(("llama.LlamaDecoderLayer",)),
    "Ernie4_5_MoeForCausalLM": Architecture(("ernie45_moe.Ernie4_5_MoeDecoderLayer",)),
    "Exaone4ForCausalLM": Architecture(("exaone4.Exaone4DecoderLayer",)),
    "ExaoneMoeForCausalLM": Architecture(("exaone_moe.ExaoneMoeDecoderLayer",)),
    "FalconForCausalLM": Architecture(("falcon.FalconDecoderLayer",)),
    "FalconH1ForCausalLM": Architecture(("falcon_h1.FalconH1ParallelHybrid",), hook_points=("mlp_out",)),
    "FalconMambaForCausalLM": Architecture(("mamba.MambaDecoderLayer",), ("read",), _NO_SCAN, hook_points=()),
    "FlexOlmoForCausalLM": _of_transformers("flex_olmo", "FlexOlmoDecoderLayer"),
    "GPT2LMHeadModel": Architecture(("gpt2.GPT2Block",)),
    "GPTBigCodeForCausalLM": _of_transformers("gpt_bigcode", "GPTBigCodeBlock"),
    "GPTJForCausalLM": Architecture(("gpt_j.GPTJBlock",)),
    "GPTNeoXForCausalLM": _of_transformers("gpt_neox", "GPTNeoXLayer"),
    "Gemma2ForCausalLM": Architecture(("gemma2.Gemma2DecoderLayer",)),
    "Gemma3ForCausalLM": Architecture(("gemma3.Gemma3DecoderLayer",), ("parity", "weights")),
    "Gemma4ForCausalLM": Architecture(("gemma4.Gemma4DecoderLayer",), hook_points=()),
    "GemmaForCausalLM": Architecture(("gemma.GemmaDecoderLayer",)),
    "Glm4ForCausalLM": Architecture(("glm4.Glm4DecoderLayer",)),
    "Glm4MoeForCausalLM": Architecture(("glm4_moe.Glm4MoeDecoderLayer",)),
    "Glm4MoeLiteForCausalLM": Architecture(("glm4_moe_lite.Glm4MoeLiteDecoderLayer",), quirk=_ROTARY),
    "GlmForCausalLM": _of_transformers("glm", "GlmDecoderLayer"),
    "GptOssForCausalLM": Architecture(("gpt_oss.TransformerBlock",)),
    "GraniteForCausalLM": Architecture(
        ("granite.GraniteDecoderLayer",), quirk="logits are divided by a constant", hook_points=()
    ),
    "GraniteMoeForCausalLM": Architecture(("granitemoe.GraniteMoeDecoderLayer",), hook_points=()),
    "GraniteMoeHybridForCausalLM": Architecture(
        (
            "granitemoehybrid.GraniteMoeHybridAttentionDecoderLayer",
            "granitemoehybrid.GraniteMoeHybridMambaDecoderLayer",
        ),
        hook_points=(),
    ),
    "GraniteMoeSharedForCausalLM": Architecture(("granitemoeshared.GraniteMoeSharedDecoderLayer",), hook_points=()),
    "HYV3ForCausalLM": Architecture(("hy_v3.HYV3DecoderLayer",)),
    "HeliumForCausalLM": _of_transformers("helium", "HeliumDecoderLayer"),
    "HunYuanDenseV1ForCausalLM": _of_transformers("hunyuan_v1_dense", "HunYuanDenseV1DecoderLayer"),
    "HyperCLOVAXForCausalLM": Architecture(("hyperclovax.HyperCLOVAXDecoderLayer",)),
    "Idefics3ForConditionalGeneration": Architecture(
        ("llama.LlamaDecoderLayer",), ("images",), "a scope by position counts the tokens that an image becomes"
    ),
    "Jais2ForCausalLM": _of_transformers("jais2", "Jais2DecoderLayer"),
    "JambaForCausalLM": Architecture(
        ("jamba.JambaAttentionDecoderLayer", "jamba.JambaMambaDecoderLayer"), ("read",), _NO_SCAN, hook_points=()
    ),
    "Lfm2ForCausalLM": Architecture(
        ("lfm2.Lfm2AttentionDecoderLayer", "lfm2.Lfm2ShortConvDecoderLayer"),
        ("read",),
        f"{_UNLIKE}; the streams are equal",
        hook_points=(),
    ),
    "Lfm2MoeForCausalLM": Architecture(
        ("lfm2_moe.Lfm2MoeAttentionDecoderLayer", "lfm2_moe.Lfm2MoeShortConvDecoderLayer"),
        ("read",),
        _UNLIKE,
        hook_points=(),
    ),
    "Llama4ForCausalLM": Architecture(("llama4.Llama4DecoderLayer",)),
    "LlamaForCausalLM": Architecture(("llama.LlamaDecoderLayer",), ("parity", "weights")),
    "Mamba2ForCausalLM": Architecture(("mamba2.Mamba2DecoderLayer",), hook_points=("attn_out",)),
    "MambaForCausalLM": Architecture(("mamba.MambaDecoderLayer",), ("read",), _NO_SCAN, hook_points=()),
    "MellumForCausalLM": _of_transformers("mellum", "MellumDecoderLayer"),
    "MiniCPM3ForCausalLM": Architecture(("minicpm.MiniCPMDecoderLayer",), hook_points=()),
    "MiniMaxM2ForCausalLM": Architecture(
        ("minimax_m2.MiniMaxM2DecoderLayer",), ("read",), "vLLM's CPU build starts it and fails when it runs"
    ),
    "Ministral3ForCausalLM": Architecture(("mistral.MistralDecoderLayer",)),
    "MistralForCausalLM": Architecture(("mistral.MistralDecoderLayer",)),
    "MixtralForCausalLM": Architecture(("mixtral.MixtralDecoderLayer",)),
    "NemotronForCausalLM": Architecture(("nemotron.NemotronDecoderLayer",)),
    "NemotronHForCausalLM": Architecture(
        (
            "nemotron_h.NemotronHAttentionDecoderLayer",
            "nemotron_h.NemotronHMLPDecoderLayer",
            "nemotron_h.NemotronHMambaDecoderLayer",
        ),
        quirk="attention, MLP and Mamba are layers of their own, experts too, which do not run on a CPU",
        hook_points=(),
    ),
    "OPTForCausalLM": Architecture(("opt.OPTDecoderLayer",), hook_points=("attn_out",)),
    "Olmo2ForCausalLM": _of_transformers("olmo2", "Olmo2DecoderLayer"),
    "Olmo3ForCausalLM": _of_transformers("olmo3", "Olmo3DecoderLayer"),
    "OlmoForCausalLM": _of_transformers("olmo", "OlmoDecoderLayer"),
    "OlmoHybridForCausalLM": Architecture(
        ("olmo_hybrid.OlmoHybridDecoderLayer",), ("read",), "vLLM has no kernel of its linear attention for a CPU"
    ),
    "OlmoeForCausalLM": Architecture(("olmoe.OlmoeDecoderLayer",)),
    "Phi3ForCausalLM": Architecture(("llama.LlamaDecoderLayer",)),
    "PhiForCausalLM": _of_transformers("phi", "PhiDecoderLayer"),
    "PhiMoEForCausalLM": Architecture(
        ("phimoe.PhiMoEDecoderLayer",), ("read",), "a tiny model of it gives no finite logits on a CPU"
    ),
    "Qwen2ForCausalLM": Architecture(("qwen2.Qwen2DecoderLayer",), ("parity", "weights")),
    "Qwen2MoeForCausalLM": Architecture(("qwen2_moe.Qwen2MoeDecoderLayer",)),
    "Qwen3ForCausalLM": Architecture(("qwen3.Qwen3DecoderLayer",)),
    "Qwen3MoeForCausalLM": Architecture(("qwen3_moe.Qwen3MoeDecoderLayer",)),
    "Qwen3NextForCausalLM": Architecture(
        ("qwen3_next.Qwen3NextDecoderLayer",), ("read",), "vLLM's linear attention for a CPU takes bfloat16 only"
    ),
    "Qwen3VLForConditionalGeneration": Architecture(
        ("qwen3.Qwen3DecoderLayer",),
        ("read",),
        "features of an image are added behind the output of the first layers (deepstack)",
    ),
    "SeedOssForCausalLM": _of_transformers("seed_oss", "SeedOssDecoderLayer"),
    "SmolLM3ForCausalLM": _of_transformers("smollm3", "SmolLM3DecoderLayer"),
    "StableLmForCausalLM": Architecture(("stablelm.StablelmDecoderLayer",)),
    "Starcoder2ForCausalLM": _of_transformers("starcoder2", "Starcoder2DecoderLayer"),
    "VaultGemmaForCausalLM": _of_transformers("vaultgemma", "VaultGemmaDecoderLayer"),
    "Zamba2ForCausalLM": Architecture(
        ("zamba2.Zamba2HybridLayer", "zamba2.Zamba2MambaDecoderLayer"),
        quirk="hybrid layers share one attention block",
        hook_points=(),
    ),
}
