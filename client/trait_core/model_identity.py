"""Identity of the served model in stored results, and the digest that ids are made with."""

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
    """The served model.

    Attributes:
        precision: Label of the precision.
        adapter: Label of the adapter; `none` is the base model.
        versions: Name and version of the service and the engine, sorted.
        checkpoint_digest: Digest of a sample of the bytes of the served weight files; None if unknown.
        asked_as: Adapter that requests name as their model; None asks the base model.
        adapter_digest: Digest of the adapter's weight files.
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
        """Describe the served model; without a label its precision is the quantisation, else the dtype.

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
        """Values hashed into the cell id; unknown fields are omitted so existing ids stay stable."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if value is not None or name not in {"checkpoint_digest", "asked_as", "adapter_digest"}
        }


def digest(value: Any) -> str:
    """32 hex digits (128 bits) of `json_sha256`: the ids of cells, trials, prompts and judgements."""
    return json_sha256(value)[:32]
