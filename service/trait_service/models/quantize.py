"""Quantised copies of a model, made without data: weights rounded to nearest, as compressed-tensors checkpoints.

| scheme | weights | activations |
|---|---|---|
| `w8a8` | INT8, a scale for each output channel | INT8, a scale for each token, found as it runs |
| `w4a16` | INT4, a scale for each 64 inputs of a channel | as they are |
| `fp8` | FP8 (E4M3), a scale for each output channel | FP8, a scale for each token, found as it runs |

Every linear layer of the decoder blocks is quantised, symmetrically; embeddings, norms and the output head are not.
"""

import json
import logging
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
    QuantizationType,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized
from transformers import AutoModelForCausalLM

from trait_service.models.bundled import PROVENANCE, ModelError, Report
from trait_service.models.weights import note_source

logger = logging.getLogger(__name__)

GROUP = 64
"""Inputs that share a scale in `w4a16`: small models are not multiples of the usual 128."""

_PER_TOKEN = QuantizationStrategy.TOKEN
_PER_CHANNEL = QuantizationStrategy.CHANNEL


def _args(kind: QuantizationType, bits: int, strategy: QuantizationStrategy, **further: Any) -> QuantizationArgs:
    return QuantizationArgs(num_bits=bits, type=kind, strategy=strategy, symmetric=True, **further)


SCHEMES: dict[str, dict[str, QuantizationArgs]] = {
    "w8a8": {
        "weights": _args(QuantizationType.INT, 8, _PER_CHANNEL),
        "input_activations": _args(QuantizationType.INT, 8, _PER_TOKEN, dynamic=True, observer=None),
    },
    "w4a16": {"weights": _args(QuantizationType.INT, 4, QuantizationStrategy.GROUP, group_size=GROUP)},
    "fp8": {
        "weights": _args(QuantizationType.FLOAT, 8, _PER_CHANNEL),
        "input_activations": _args(QuantizationType.FLOAT, 8, _PER_TOKEN, dynamic=True, observer=None),
    },
}


def quantize(model: Path, scheme: str, out: Path, *, report: Report = logger.info) -> None:
    """Write a quantised copy of a model folder.

    Args:
        model: A Hugging Face folder with unquantised weights.
        scheme: A key of `SCHEMES`.
        out: Must not exist; it does only once the copy is whole.
        report: Receives progress messages.

    Raises:
        ModelError: The scheme is unknown, the model is not there, quantised already or of the wrong shape, or `out`
            exists.
    """
    if scheme not in SCHEMES:
        raise ModelError(f"no scheme is called {scheme!r}; there are {', '.join(SCHEMES)}.")
    if out.exists():
        raise ModelError(f"{out} exists: name a folder that does not.")
    config = model / "config.json"
    if not config.is_file():
        raise ModelError(f"{model} is not a model folder: it has no config.json.")
    if "quantization_config" in json.loads(config.read_text(encoding="utf-8")):
        raise ModelError(f"{model} is quantised already: give the model that it was made from.")
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    _check_groups(loaded, SCHEMES[scheme]["weights"])
    settings = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], **SCHEMES[scheme])},
        ignore=["lm_head"],
        quantization_status=QuantizationStatus.FROZEN,
    )
    apply_quantization_config(loaded, settings)
    layers = [module for module in loaded.modules() if is_module_quantized(module)]
    report(f"{scheme}: rounding {len(layers)} linear layers")
    for layer in layers:
        _fit_scales(layer)
    compressor = ModelCompressor.from_pretrained_model(loaded)
    compressor.compress_model(loaded)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out.parent) as partial:
        target = Path(partial) / "model"
        loaded.save_pretrained(target)
        compressor.update_config(str(target))
        for file in model.iterdir():  # tokenizer, chat template, licence
            if file.is_file() and file.suffix != ".safetensors" and not (target / file.name).exists():
                shutil.copy2(file, target / file.name)
        _note_scheme(target / PROVENANCE, scheme)
        note_source(model, target)
        for file in target.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner only; a container reads as another user
        target.rename(out)
    report(f"{scheme}: ready in {out}")


def _check_groups(model: torch.nn.Module, weights: QuantizationArgs) -> None:
    if weights.group_size is None:
        return
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module.in_features % weights.group_size:
            raise ModelError(
                f"{name} has {module.in_features} inputs, which are not a multiple of the group of {weights.group_size}."
            )


def _note_scheme(provenance: Path, scheme: str) -> None:
    """Update the copied provenance, which still describes the original model."""
    known = json.loads(provenance.read_text(encoding="utf-8")) if provenance.is_file() else {}
    versions = {package: version(package) for package in ("torch", "transformers", "compressed-tensors")}
    known |= {"quantised": scheme, "quantised_with": versions}
    provenance.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def _fit_scales(layer: Any) -> None:
    """Scales that carry the largest weight of each channel (or group) to the end of the range."""
    args: QuantizationArgs = layer.quantization_scheme.weights
    weight = layer.weight.to(torch.float32)
    grouped = weight.unflatten(-1, (-1, args.group_size or weight.shape[-1]))
    scale, _ = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    layer.weight_scale.copy_(scale)
