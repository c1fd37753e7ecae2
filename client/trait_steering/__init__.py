"""Steer, monitor and read language models with trait vectors.

    from trait_steering import Steering, SteeringTerm, TraitClient

All public names of the project, loaded on first use: importing this package loads neither torch, vllm nor duckdb.
`TraitClient` and what it takes need the base package only; `LocalEngine` needs the extra `service-cpu` or `service-cuda`, and
`extract` needs `extraction`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trait_core import __version__

if TYPE_CHECKING:
    from trait_client.http import AsyncTraitClient, AsyncTraitReplicas, TraitClient
    from trait_client.http.activations import Activations
    from trait_client.http.replies import ChatDelta, ChatResult
    from trait_core.errors import (
        DatasetError,
        InvalidRequestError,
        ServiceError,
        ServiceUnreachableError,
        SteeringFailedError,
        TraitError,
        UnknownVectorError,
        VectorFileError,
    )
    from trait_core.positions import Positions
    from trait_core.schema import (
        ActivationInput,
        ActivationsRequest,
        Gate,
        Generation,
        InlineVector,
        Message,
        Monitor,
        PatchPrompt,
        PatchReport,
        PatchRequest,
        ServiceInfo,
        Steering,
        SteeringReport,
        SteeringTerm,
        StreamLens,
        VectorInfo,
    )
    from trait_core.vectors.file import VectorFile
    from trait_core.vectors.inline import inline_vector
    from trait_steering.extraction import extract
    from trait_steering.local_engine import LocalEngine
    from trait_steering.models import model_folder

__all__ = [
    "ActivationInput",
    "Activations",
    "ActivationsRequest",
    "AsyncTraitClient",
    "AsyncTraitReplicas",
    "ChatDelta",
    "ChatResult",
    "DatasetError",
    "Gate",
    "Generation",
    "InlineVector",
    "InvalidRequestError",
    "LocalEngine",
    "Message",
    "Monitor",
    "PatchPrompt",
    "PatchReport",
    "PatchRequest",
    "Positions",
    "ServiceError",
    "ServiceInfo",
    "ServiceUnreachableError",
    "Steering",
    "SteeringFailedError",
    "SteeringReport",
    "SteeringTerm",
    "StreamLens",
    "TraitClient",
    "TraitError",
    "UnknownVectorError",
    "VectorFile",
    "VectorFileError",
    "VectorInfo",
    "__version__",
    "extract",
    "inline_vector",
    "model_folder",
]

_FROM = {
    "Activations": "trait_client.http.activations",
    "AsyncTraitClient": "trait_client.http",
    "AsyncTraitReplicas": "trait_client.http",
    "ChatDelta": "trait_client.http.replies",
    "ChatResult": "trait_client.http.replies",
    "LocalEngine": "trait_steering.local_engine",
    "Positions": "trait_core.positions",
    "TraitClient": "trait_client.http",
    "VectorFile": "trait_core.vectors.file",
    "extract": "trait_steering.extraction",
    "inline_vector": "trait_core.vectors.inline",
    "model_folder": "trait_steering.models",
} | dict.fromkeys((name for name in __all__ if name.endswith("Error")), "trait_core.errors")
"""Where a name is defined; those not listed are in `trait_core.schema`."""

_NEEDS = {
    "LocalEngine": ("'trait-steering[service-cpu]' (on CUDA: 'trait-steering[service-cuda]')", "vllm"),
    "extract": ("'trait-steering[extraction]'", "torch", "sklearn"),
    "model_folder": ("'trait-steering[service-cpu]' (on CUDA: 'trait-steering[service-cuda]')", "gguf", "accelerate"),
}
"""The extras that a name needs, and modules that come with them."""


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562).

    Raises:
        ImportError: The extra that it needs is not installed; the message says which.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _NEEDS:
        extra, *modules = _NEEDS[name]
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            raise ImportError(
                f"{name} needs {' and '.join(missing)}, not part of the base package: pip install {extra}",
                name=missing[0],
            )
    value = getattr(import_module(_FROM.get(name, "trait_core.schema")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
