"""The served model as results identify it, and the digest that identities are made of."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from trait_core.errors import InvalidRequestError
from trait_core.schema import ServiceInfo
from trait_core.storage import json_sha256

ANSWERING_FIELDS = ("model", "config_digest", "chat_template_digest", "dtype", "quantization")
"""Fields of `ServiceInfo` that decide its answers and enter every stored identity, in the order of a reading's id."""


@dataclass(frozen=True)
class ModelIdentity:
    """The model as it is served.

    Attributes:
        precision: A label.
        adapter: A label; `none` is the base model.
        versions: The service's and the engine's.
        checkpoint_digest: Of a sample of the bytes of the served weight files; None where the service does not tell.
        asked_as: Adapter that requests name as their model; None asks the base model.
        adapter_digest: Of the adapter's weight files.
    """

    model: str
    config_digest: str
    chat_template_digest: str | None
    dtype: str
    quantization: str | None
    precision: str
    adapter: str
    versions: tuple[tuple[str, str], ...]
    checkpoint_digest: str | None = None
    asked_as: str | None = None
    adapter_digest: str | None = None

    @classmethod
    def of(cls, info: ServiceInfo, precision: str | None, adapter: str, asked_as: str | None = None) -> "ModelIdentity":
        """The served model; without a label its precision is the quantisation, or the dtype where there is none.

        Raises:
            InvalidRequestError: The service has no such adapter.
        """
        if asked_as is not None and asked_as not in info.adapters:
            raise InvalidRequestError(
                f"adapter {asked_as!r} is not served: the service has {', '.join(info.adapters) or 'none'} "
                "(trait-service serve ... --enable-lora --lora-modules NAME=FOLDER)",
                param="adapters",
            )
        return cls(
            model=info.model,
            config_digest=info.config_digest,
            chat_template_digest=info.chat_template_digest,
            dtype=info.dtype,
            quantization=info.quantization,
            precision=precision or info.quantization or info.dtype,
            adapter=asked_as or adapter,
            versions=tuple(sorted(info.versions.items())),
            checkpoint_digest=info.checkpoint_digest,
            asked_as=asked_as,
            adapter_digest=info.adapters[asked_as] if asked_as is not None else None,
        )

    def as_identity(self) -> dict[str, Any]:
        """What a digest is taken of; what is not known is left out, so that older trials keep their identity."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None or name not in {"checkpoint_digest", "asked_as", "adapter_digest"}
        }


def digest(value: Any) -> str:
    """32 hex digits (128 bits) of `json_sha256`: the ids of cells, trials, prompts and judgements."""
    return json_sha256(value)[:32]
