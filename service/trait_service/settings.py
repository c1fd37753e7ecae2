"""What the HTTP side of a service is told at start-up."""

from argparse import Namespace
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from trait_service.paths import trait_home

ARGS_ENTRY = "trait_service"
"""Attribute of vLLM's parsed arguments that carries our settings into the endpoint plugin."""


class ServiceSettings(BaseModel):
    """Limits and folders.

    Attributes:
        vectors: Folder of the vector registry; each model has a folder of its own inside.
        keys: File of API keys (`trait-service key create`); None leaves those of `--api-key` and the environment.
        max_relative_dose: Largest sum of `|a| / residual_norm` over one request's terms on one layer.
        max_total_dose: Largest sum of relative doses over all layers of one request; None leaves the layers' limits.
        requests_per_minute: Of one key that has no limit of its own; None lets keys ask as they like.
        max_in_flight: Requests at once, waiting ones included.
        drain_seconds: That running requests have to finish once the service is told to end.
        log_requests: Write a line of JSON for each request: id, key's name, route, status, seconds.
        max_body_bytes: Largest request body.
        max_n: Largest `n` of one prompt.
        max_completions: Largest sum of `n` over the prompts of one request.
        max_vectors: Registered vectors.
        max_vector_versions: Versions of one name that are kept.
        max_vector_bytes: Size of one vector file.
        max_activation_bytes: Size of one answer of `POST /v1/activations`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vectors: Path = Field(default_factory=lambda: trait_home() / "vectors")
    keys: Path | None = None
    max_relative_dose: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    max_total_dose: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    max_in_flight: Annotated[int, Field(ge=1)] = 2048
    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 25.0
    log_requests: bool = False
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    max_n: Annotated[int, Field(ge=1)] = 128
    max_completions: Annotated[int, Field(ge=1)] = 8192
    max_vectors: Annotated[int, Field(ge=1)] = 1024
    max_vector_versions: Annotated[int, Field(ge=1)] = 10
    max_vector_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    max_activation_bytes: Annotated[int, Field(ge=1024)] = 2**30

    @classmethod
    def from_args(cls, args: Namespace) -> Self:
        """The settings that `trait-service serve` left in vLLM's arguments; the defaults under plain `vllm serve`."""
        found = vars(args).get(ARGS_ENTRY)
        return found if isinstance(found, cls) else cls()
