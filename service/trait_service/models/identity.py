"""Which model is served: digests that vector files carry, so that a vector meets the model it was made for."""

import json
from collections.abc import Mapping
from typing import Any

from trait_core.schema import SHA256_PREFIX
from trait_core.storage import sha256_of

IDENTIFYING_FIELDS = (
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "rms_norm_eps",
    "sliding_window",
    "tie_word_embeddings",
)
"""Fields of a Hugging Face config that do not change with dtype, quantisation or the version of transformers.

A base model and its fine-tunes may share them: the digest identifies the shape, `trait_service.models.weights` the weights.
"""


def config_digest(config: Mapping[str, Any]) -> str:
    """`sha256:` digest of the identifying fields of a config (`PretrainedConfig.to_dict()`)."""
    text = config.get("text_config")
    fields = {**config, **text} if isinstance(text, Mapping) else config
    return _digest(json.dumps({name: fields.get(name) for name in IDENTIFYING_FIELDS}, sort_keys=True, default=str))


def chat_template_digest(template: object, defaults: Mapping[str, Any] | None = None) -> str | None:
    """`sha256:` digest of a chat template and the service's own variables for it; None where the model has no template."""
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True, default=str)
    return _digest(text + json.dumps(defaults, sort_keys=True, default=str) if defaults else text)


def registry_folder(config: str, weights: str | None) -> str:
    """A model's folder of registered vectors: a fine-tune must not find those of its base model there."""
    short = config.removeprefix(SHA256_PREFIX)[:16]
    return short if weights is None else f"{short}-{weights.removeprefix(SHA256_PREFIX)[:16]}"


def _digest(text: str) -> str:
    return sha256_of(text.encode("utf-8", "backslashreplace"))
