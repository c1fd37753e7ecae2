"""The tables of decoder layers: what each class returns, and which models cannot be steered.

A class is named by its module and its own name, `llama.LlamaDecoderLayer`; the module is relative to vLLM's folder of models
or, for those that vLLM keeps elsewhere, in full. The class is the one whose `forward` runs: a subclass that inherits it is
known, one with a `forward` of its own is another class. Each was read in vLLM 0.32 and 0.33 where it exists in both: in a
pair the second half is what the next norm adds to the first, and nothing is added twice. Tests hold the tables to the
sources of both releases, and many of the classes to transformers by a parity test.

To teach the service a class, add its name to one of the lists below, or start with `--layer-rule 'module.Class=pair'`, and
run `trait-service verify`.
"""

from typing import Literal, get_args

Rule = Literal["pair", "first", "single"]
"""The place of the residual stream in what a layer returns.

- `pair`: `(hidden_states, residual)`, and the stream is their sum, which the next norm makes;
- `first`: a tuple whose first element is the stream;
- `single`: one tensor, the stream.
"""

VLLM_MODELS = "vllm.model_executor.models."
"""The folder of models that names of the tables are relative to."""

RULES_OF: dict[Rule, tuple[str, ...]] = {
    "pair": (
        "AXK1.AXK1DecoderLayer",
        "afmoe.AfmoeDecoderLayer",
        "apertus.ApertusDecoderLayer",
        "bailing_moe.BailingMoeBlock",
        "bailing_moe_linear.BailingMoeV25DecoderLayer",
        "bailing_moe_v3.BailingMoeV3DecoderLayer",
        "deepseek_v2.DeepseekV2DecoderLayer",
        "domyn_edge.DomynEdgeDecoderLayer",
        "ernie45_moe.Ernie4_5_MoeDecoderLayer",
        "ernie45_vl_moe.Ernie4_5_VLMoeDecoderLayer",
        "exaone.ExaoneDecoderLayer",
        "exaone_moe.ExaoneMoeDecoderLayer",
        "gemma.GemmaDecoderLayer",
        "gemma2.Gemma2DecoderLayer",
        "gemma3.Gemma3DecoderLayer",
        "glm4.Glm4DecoderLayer",
        "glm4_moe.Glm4MoeDecoderLayer",
        "glm4_moe_lite.Glm4MoeLiteDecoderLayer",
        "gpt_oss.TransformerBlock",
        "hy_v3.HYV3DecoderLayer",
        "internlm2.InternLMDecoderLayer",
        "interns1_pro.InternS1ProMoeDecoderLayer",
        "interns2_mobius.InternS2MobiusDecoderLayer",
        "jamba.JambaAttentionDecoderLayer",
        "jamba.JambaMambaDecoderLayer",
        "k2_horizon.K2HorizonDecoderLayer",
        "laguna.LagunaDecoderLayer",
        "lfm2.Lfm2AttentionDecoderLayer",
        "lfm2.Lfm2ShortConvDecoderLayer",
        "lfm2_moe.Lfm2MoeAttentionDecoderLayer",
        "lfm2_moe.Lfm2MoeShortConvDecoderLayer",
        "llama.LlamaDecoderLayer",
        "llama4.Llama4DecoderLayer",
        "longcat_flash.FlashDecoderLayer",
        "mamba.MambaDecoderLayer",
        "mamba2.Mamba2DecoderLayer",
        "mimo_v2.MiMoV2FlashDecoderLayer",
        "minimax_m2.MiniMaxM2DecoderLayer",
        "mistral.MistralDecoderLayer",
        "mixtral.MixtralDecoderLayer",
        "molmo.MolmoDecoderLayer",
        "molmo2.Molmo2DecoderLayer",
        "nemotron.NemotronDecoderLayer",
        "nemotron_h.NemotronHAttentionDecoderLayer",
        "nemotron_h.NemotronHMLPDecoderLayer",
        "nemotron_h.NemotronHMambaDecoderLayer",
        "nemotron_h.NemotronHMoEDecoderLayer",
        "nemotron_nas.DeciLMDecoderLayer",
        "olmoe.OlmoeDecoderLayer",
        "openpangu.OpenPanguDecoderLayer",
        "param2moe.Param2MoEDecoderLayer",
        "plamo3.Plamo3DecoderLayer",
        "qwen2.Qwen2DecoderLayer",
        "qwen2_moe.Qwen2MoeDecoderLayer",
        "qwen3.Qwen3DecoderLayer",
        "qwen3_moe.Qwen3MoeDecoderLayer",
        "qwen3_next.Qwen3NextDecoderLayer",
        "rnj1.Rnj1DecoderLayer",
        "sarvam.SarvamMLABlock",
        "solar.SolarDecoderLayer",
        "step1.StepDecoderLayer",
        "step3_text.Step3TextDecoderLayer",
        "vllm.models.deepseek_v32.nvidia.model.DeepseekV32DecoderLayer",
        "vllm.models.minimax_m3.nvidia.model.MiniMaxM3DecoderLayer",
    ),
    "first": (
        "cohere2_moe.Cohere2MoeDecoderLayer",
        "cohere_compass.CohereCompassDecoderLayer",
        "commandr.CohereDecoderLayer",
        "exaone4.Exaone4DecoderLayer",
        "gemma4.Gemma4DecoderLayer",
        "granitemoehybrid.GraniteMoeHybridAttentionDecoderLayer",
        "granitemoehybrid.GraniteMoeHybridMambaDecoderLayer",
        "hyperclovax.HyperCLOVAXDecoderLayer",
        "minicpm.MiniCPMDecoderLayer",
        "molmo.MolmoDecoderNormAfterLayer",
        "molmo2.Molmo2DecoderNormAfterLayer",
        "muse_glimmer.MuseGlimmerDecoderLayer",
        "phimoe.PhiMoEDecoderLayer",
        "stablelm.StablelmDecoderLayer",
    ),
    "single": (
        "bloom.BloomBlock",
        "chatglm.GLMBlock",
        "dbrx.DbrxBlock",
        "falcon.FalconDecoderLayer",
        "falcon_h1.FalconH1ParallelHybrid",
        "gpt2.GPT2Block",
        "gpt_j.GPTJBlock",
        "granite.GraniteDecoderLayer",
        "granitemoe.GraniteMoeDecoderLayer",
        "granitemoeshared.GraniteMoeSharedDecoderLayer",
        "moondream3.Moondream3DecoderLayer",
        "olmo_hybrid.OlmoHybridDecoderLayer",
        "opt.OPTDecoderLayer",
        "orion.OrionDecoderLayer",
        "step3p5.Step3p5DecoderLayer",
        "zamba2.Zamba2HybridLayer",
        "zamba2.Zamba2MambaDecoderLayer",
    ),
}
"""The rules of vLLM's own layers. Layers of transformers need no line: see `trait_service.engine.layers`."""

RULES: dict[str, Rule] = {name: rule for rule, names in RULES_OF.items() for name in names}

PAIR_WHERE_SET: dict[str, str] = {"cohere2_moe.Cohere2MoeDecoderLayer": "uses_rms_norm"}
"""Layers that return a pair where this attribute of theirs is true, and what `RULES` says elsewhere (vLLM 0.33)."""

_HYPER_CONNECTIONS = "its residual stream is several streams that are mixed anew in each block (hyper-connections)"
_REPEATED = "the model calls each of its layers several times for one token, and a vector would act in each round"
_UNFINISHED = "it returns parts that the next layer joins in a way of its own, and no whole stream"

REFUSED: dict[str, str] = {
    "gemma3n.Gemma3nDecoderLayer": "it carries four residual streams in parallel",
    "hrm_text.HrmTextDecoderLayer": _REPEATED,
    "iquest_loopcoder.LoopCoderDecoderLayer": _REPEATED,
    "dory.DoryDecoderLayer": _REPEATED,
    "alice_ai.AliceAIDecoderBlock": "each block attends to the outputs of all blocks before it, and no single stream exists",
    "vllm.models.beam.nvidia.model.BeamDecoderLayer": (
        "it computes the next layer's norm itself, so that a change to its output would not reach that layer"
    ),
    "vllm.models.deepseek_v4.cpu.model.DeepseekV4DecoderLayer": _HYPER_CONNECTIONS,
    "vllm.models.deepseek_v4.nvidia.model.DeepseekV4DecoderLayer": _HYPER_CONNECTIONS,
    "vllm.models.deepseek_v41.nvidia.model.DeepseekV4DecoderLayer": _HYPER_CONNECTIONS,
    "vllm.models.flint.model.FlintDecoderLayer": _UNFINISHED,
    "vllm.models.glm5next.common.model.Glm5NextDecoderLayer": _HYPER_CONNECTIONS,
    "vllm.models.hy_v4.nvidia.model.HYV4DecoderLayer": _HYPER_CONNECTIONS,
    "vllm.models.inkling.nvidia.model.InklingDecoderLayer": _UNFINISHED,
    "vllm.models.kimi_k3.nvidia.model.KimiDecoderLayer": (
        "it returns three parts, and in some models each block attends to the outputs of blocks before it"
    ),
    "vllm.models.muse_spark.nvidia.model.MuseSpark1xDecoderLayer": _UNFINISHED,
    "vllm.models.qwen4_exp.nvidia.model.Qwen4ExpDecoderLayer": _HYPER_CONNECTIONS,
    "vllm.models.step5.nvidia.model.Step5DecoderLayer": "its residual stream may be float32 beside halves of another dtype",
}
"""Layers that cannot be steered, with the reason. No option overrules it."""

SCALED_IN_FLOAT16 = (
    "AXK1.AXK1DecoderLayer",
    "deepseek_v2.DeepseekV2DecoderLayer",
    "openpangu.OpenPanguDecoderLayer",
)
"""Layers that divide the stream by a constant in float16: a vector added there would act several times too strongly."""

REDUCED_BY_THE_NEXT_NORM = (
    "vllm.models.deepseek_v32.nvidia.model.DeepseekV32DecoderLayer",
    "vllm.models.minimax_m3.nvidia.model.MiniMaxM3DecoderLayer",
)
"""Layers whose output is not yet summed over the ranks of tensor parallelism: no rank has the stream."""

OPTION = "--layer-rule"


def parsed(text: str) -> tuple[str, Rule]:
    """The class and the rule of one `--layer-rule`.

    Args:
        text: `module.Class=pair`, with `first` or `single` in its place.

    Raises:
        ValueError: The text has another form.
    """
    name, _, rule = text.partition("=")
    known = {each: each for each in get_args(Rule)}
    if not all(part.isidentifier() for part in name.split(".")) or "." not in name or rule not in known:
        raise ValueError(
            f"must be 'module.Class=rule' with one of the rules {', '.join(known)}, as 'llama.LlamaDecoderLayer=pair'"
        )
    return name.removeprefix(VLLM_MODELS), known[rule]


def checked(texts: list[str]) -> list[str]:
    """The same, if each is a `--layer-rule`.

    Raises:
        ValueError: One has another form.
    """
    for text in texts:
        parsed(text)
    return texts
