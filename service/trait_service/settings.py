"""Settings of the HTTP side of a service; each is an option of `trait-service serve`."""

from argparse import Namespace
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trait_service.options import Cli
from trait_service.paths import trait_home

ARGS_ENTRY = "trait_service"
"""Attribute of vLLM's parsed arguments that carries our settings into the endpoint plugin."""


class ServiceSettings(BaseModel):
    """Limits and folders."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    keys: Annotated[Path | None, Cli(envvar="TRAIT_KEYS_FILE")] = None
    """File of API keys with scopes: see `trait-service key create`."""

    vectors: Path = Field(default_factory=lambda: trait_home() / "vectors")
    """Folder of the vector registry; each model has a folder inside it (default: $TRAIT_HOME/vectors)."""

    max_relative_dose: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    """Largest sum of |a| / residual norm over one request's terms on one layer."""

    max_total_dose: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """Largest sum of relative doses over all layers of one request (default: no limit)."""

    max_in_flight: Annotated[int, Field(ge=1)] = 2048
    """Largest number of requests at once, waiting ones included."""

    requests_per_minute: Annotated[int | None, Field(ge=1)] = None
    """Requests per minute for each key. A limit set on the key takes precedence (default: no limit)."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Largest request body, in bytes."""

    max_n: Annotated[int, Field(ge=1)] = 128
    """Largest `n` (completions of one prompt)."""

    max_completions: Annotated[int, Field(ge=1)] = 8192
    """Largest number of completions of one request (prompts times `n`)."""

    max_lens_readings: Annotated[int, Field(ge=1, le=65536)] = 512
    """Layers times completions that the lens in replies (monitor.lens) may read in one step; further requests wait."""

    max_vectors: Annotated[int, Field(ge=1)] = 1024
    """Largest number of registered vectors."""

    max_vector_versions: Annotated[int, Field(ge=1)] = 10
    """Versions kept for each vector name."""

    max_vector_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Largest vector file, in bytes."""

    max_activation_bytes: Annotated[int, Field(ge=1024)] = 2**30
    """Largest answer of POST /v1/activations, in bytes."""

    reasoning_markers: Annotated[str | None, Field(pattern=r"^\S+ \S+$", max_length=200)] = None
    """Texts around a reply's reasoning, such as "<think> </think>", for positions thinking[:] and answer[:] (default: those of the
    model's tokenizer or chat template)."""

    drain_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 25.0
    """Seconds to let running requests finish after SIGTERM or SIGINT."""

    log_requests: bool = False
    """Log a line of JSON for each request: id, key's name, route, status, time."""

    @field_validator("keys", "vectors")
    @classmethod
    def _expanded(cls, path: Path | None) -> Path | None:
        return path and path.expanduser()

    @classmethod
    def from_args(cls, args: Namespace) -> Self:
        """The settings that `trait-service serve` left in vLLM's arguments; the defaults under plain `vllm serve`."""
        found = vars(args).get(ARGS_ENTRY)
        return found if isinstance(found, cls) else cls()
