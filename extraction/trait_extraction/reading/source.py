"""The source of replies and activations: a model behind a client, with a cache of what it answered."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from trait_client.http.activations import Activations
from trait_client.http.chat_requests import ChatMessages
from trait_client.http.replies import ChatResult
from trait_core.schema import ActivationsRequest, ServiceInfo, VectorInfo

from trait_extraction.reading.stage_store import StageStore

logger = logging.getLogger(__name__)


class Model(Protocol):
    """A model that extraction can read. `trait_client.http.TraitClient` is one."""

    def info(self) -> ServiceInfo:
        """The model's name, digests, shape and limits."""
        ...

    def activations(self, request: ActivationsRequest) -> Activations:
        """Pooled activations of the inputs, in order, on all layers."""
        ...

    def chat(
        self,
        messages: ChatMessages,
        *,
        model: str | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> ChatResult:
        """An unsteered reply. Several threads call it at once; only instructed datasets need it."""
        ...

    def complete(
        self,
        prompt: str | list[int],
        *,
        model: str | None = None,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        token_ids: bool = False,
    ) -> ChatResult:
        """An unsteered continuation of raw text. Several threads call it at once; only continued datasets need it."""
        ...


class VectorService(Model, Protocol):
    """A model with a registry of vectors. `trait_client.http.TraitClient` is one."""

    def put_vector(self, name: str, data: bytes) -> VectorInfo:
        """Register a vector file."""
        ...


@dataclass(frozen=True)
class Source:
    """A model to read, with the answers that are stored already.

    Args:
        model: Model that answers questions without a stored answer.
        info: The model's name, digests, shape and limits; stored answers of another model are not used.
        stored: Answers of earlier runs, by the digest of everything that they depend on.
        again: Ask the model again, and overwrite what is stored.
        report: Receives progress messages.
    """

    model: Model
    info: ServiceInfo
    stored: StageStore = field(default_factory=StageStore)
    again: bool = False
    report: Callable[[str], None] = logger.info
