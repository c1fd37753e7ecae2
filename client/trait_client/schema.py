"""The wire schema: what travels between client and service, defined once.

Requests are strict: an unknown field, a wrong type or a non-finite number is refused. Responses are read leniently
(unknown fields are ignored), so that a client meets a newer service.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
"""Names of vectors, traits and methods."""

SHA256_PATTERN = r"^sha256:[0-9a-f]{64}$"

MAX_TERMS = 32
MAX_LAYERS = 512

Unit = Literal["dose", "separation", "raw"]
Operation = Literal["add", "ablate", "set", "scale", "floor", "ceiling"]
NamedScope = Literal["all", "prompt", "generated", "last_prompt"]

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Layer = Annotated[int, Field(ge=0, lt=MAX_LAYERS)]
VectorReference = Annotated[str, Field(pattern=rf"({NAME_PATTERN})|({SHA256_PATTERN})", max_length=71)]


def is_name(text: str) -> bool:
    """Whether `text` may name a vector, trait or method."""
    return re.fullmatch(NAME_PATTERN, text) is not None


class Request(BaseModel):
    """Base of what a client sends: strict."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Response(BaseModel):
    """Base of what the service answers: lenient to new fields."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------------- steering


class PositionScope(Request):
    """Absolute token positions `[from, to)`, counted from the first prompt token."""

    positions: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        start, stop = self.positions
        if start >= stop:
            raise ValueError(f"positions [{start}, {stop}) are empty: from must be below to")
        return self


Scope = NamedScope | PositionScope


class SteeringTerm(Request):
    """One vector at one coefficient on one or more layers.

    Attributes:
        vector: A registered name, or `sha256:...` of a vector file.
        coefficient: In the unit beside it; its sign is the direction. `scale`: the factor, -10..10, without a unit.
            `ablate` takes no number and ignores it.
        unit: `dose`: a = coefficient * residual_norm / 10. `separation`: a = coefficient * separation.
            `raw`: a = coefficient, in residual units.
        layers: 0-based decoder blocks whose output is changed; None takes the vector file's chosen layer.
        operation: `add` (activation addition), `ablate` (the projection becomes 0), `set` (becomes the value), `scale`
            (times the factor), `floor` and `ceiling` (kept at or above, below the limit).
        scope: Token positions that are steered. `generated` includes the last prompt position, which produces the
            first generated token.
        preserve_norm: Rescale the residual stream to its norm before the change.
    """

    vector: VectorReference
    coefficient: FiniteFloat
    unit: Unit = "dose"
    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    operation: Operation = "add"
    scope: Scope = "all"
    preserve_norm: bool = False


class Steering(Request):
    """A request's whole steering; terms on one layer act in the order given."""

    terms: Annotated[list[SteeringTerm], Field(min_length=1, max_length=MAX_TERMS)]


class AppliedTerm(Response):
    """One vector on one layer, as the engine applied it.

    Attributes:
        a: The operation's number, residual units: added along the unit direction (`add`), the projection's value or
            limit (`set`, `floor`, `ceiling`), the factor (`scale`), 0 (`ablate`).
        relative_dose: `|a| / residual_norm` of the layer.
    """

    vector: str
    sha256: str
    layer: int
    operation: Operation
    unit: Unit
    coefficient: float
    a: float
    relative_dose: float
    scope: Scope


class SteeredPositions(Response):
    """Token positions that steering touched, counted in the worker.

    Attributes:
        prompt: Prompt positions, those read from identically steered cache blocks included.
        generated: Generated tokens that went through the steered model. The last token of a reply never does.
        cached: How many of `prompt` came from the prefix cache.
    """

    prompt: int
    generated: int
    cached: int = 0


class SteeringReport(Response):
    """The `steering` block of a response."""

    applied: list[AppliedTerm]
    positions: SteeredPositions


# ---------------------------------------------------------------------------------------------------- activations


class Message(Request):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=1_000_000)]


class ActivationInput(Request):
    """One text to read: exactly one of `messages`, `text`, `token_ids`.

    Attributes:
        messages: A chat; it is rendered with the model's template and the header of the assistant's turn.
        text: Raw text for base models; special tokens as the tokenizer adds them.
        token_ids: Ids as they stand.
        response: The reply that is read after `messages` or `text`, as it stands. Its tokens follow the prompt's.
        n_prompt: With `token_ids` only: where the response begins; left out, all of them are the prompt.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    text: Annotated[str, Field(max_length=4_000_000)] | None = None
    token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1_000_000)] | None = None
    response: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    n_prompt: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("messages", "text", "token_ids") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of messages, text, token_ids (got {given or 'none'})")
        if self.token_ids is not None:
            if self.response is not None:
                raise ValueError("response goes with messages or text; with token_ids, set n_prompt")
            if self.n_prompt is not None and self.n_prompt > len(self.token_ids):
                raise ValueError(f"n_prompt {self.n_prompt} is beyond the {len(self.token_ids)} token_ids")
        elif self.n_prompt is not None:
            raise ValueError("n_prompt goes with token_ids only")
        return self


class Generation(Request):
    """How replies are generated before they are read."""

    max_tokens: Annotated[int, Field(ge=1, le=65536)] = 64
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    seed: int | None = None


class ActivationsRequest(Request):
    """`POST /v1/activations`.

    Attributes:
        inputs: Up to 8192 texts, read in one batch.
        layers: 0-based decoder blocks (their output); None reads all.
        positions: Pools, each a mean over the positions it names (`trait_client.positions`).
        generate: Generate a reply to each input first, and read it; inputs then carry no response.
        logprobs: Also answer the mean negative log-likelihood of each response token (given responses only).
        steering: Steer while reading. Left out: the unsteered model.
    """

    model: str | None = None
    inputs: Annotated[list[ActivationInput], Field(min_length=1, max_length=8192)]
    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    positions: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=8)] = [
        "response[:]"
    ]
    generate: Generation | None = None
    logprobs: bool = False
    steering: Steering | None = None

    @model_validator(mode="after")
    def _responses_fit(self) -> Self:
        if self.generate is not None:
            if self.logprobs:
                raise ValueError("logprobs reads given responses; it does not go with generate")
            for i, item in enumerate(self.inputs):
                if item.response is not None or item.n_prompt is not None:
                    raise ValueError(f"inputs[{i}] has a response already; it does not go with generate")
        return self


class ActivationsMetadata(Response):
    """The one metadata entry (`trait`, JSON) of the safetensors answer of `POST /v1/activations`.

    The tensors, for n inputs and the layers listed here, in order::

        mean/<positions>    (n, n_layers_read, d_model) float32   mean residual stream after the block
        norm/<positions>    (n, n_layers_read)          float32   mean of the token norms
        count/<positions>   (n,)                        int32     positions pooled
        n_prompt            (n,)                        int32     prompt tokens
        n_response          (n,)                        int32     response tokens (generated ones included)
        nll                 (n,)                        float32   with `logprobs`: mean nats per response token
    """

    schema_version: int = 1
    model: str
    config_digest: str
    chat_template_digest: str | None = None
    n_layers: int
    d_model: int
    dtype: str
    hook_point: Literal["resid_post"] = "resid_post"
    layers: list[int]
    positions: list[str]
    responses: list[str] | None = None
    steering: SteeringReport | None = None


# ---------------------------------------------------------------------------------------------------- the service


class SteeringLimits(Response):
    """What a request may ask for."""

    max_terms: int
    max_relative_dose: float
    max_layers_per_term: int
    terms_per_layer: int
    bank_rows: int
    max_num_seqs: int
    max_activation_inputs: int
    max_positions: int


class ServiceInfo(Response):
    """`GET /v1/steering`.

    Attributes:
        residual_norms: Mean token norm after each block over positions 4 and later of a built-in text, `n_layers` long.
    """

    model: str
    config_digest: str
    chat_template_digest: str | None
    n_layers: int
    d_model: int
    dtype: str
    quantization: str | None
    residual_norms: list[float]
    operations: list[Operation]
    scopes: list[str]
    units: list[Unit]
    limits: SteeringLimits
    versions: dict[str, str]


class LayerEvidence(Response):
    """What is known of one layer's direction, over training activations unless said otherwise.

    Attributes:
        separation: mean(h+ . d) - mean(h- . d), residual units.
        centre: The midpoint of the two means, residual units.
        residual_norm: Mean token norm over positions 4 and later, residual units.
        accuracy: Held-out, threshold at the centre.
        auc: Held-out.
        cohens_d: Held-out, pooled standard deviation.
    """

    separation: float
    centre: float
    residual_norm: float
    accuracy: float | None = None
    auc: float | None = None
    cohens_d: float | None = None


class VectorMetadata(BaseModel):
    """The one JSON metadata entry (`trait`) of a vector file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    trait: Annotated[str, Field(pattern=NAME_PATTERN)]
    model: Annotated[str, Field(max_length=1024)]
    config_digest: Annotated[str, Field(max_length=128)]
    n_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)]
    d_model: Annotated[int, Field(ge=1, le=1_000_000)]
    hook_point: Literal["resid_post"] = "resid_post"
    layer_convention: Literal["output of 0-based decoder block"] = "output of 0-based decoder block"
    method: Annotated[str, Field(pattern=NAME_PATTERN)]
    method_options: dict[str, Any] = {}
    positions: Annotated[str, Field(max_length=64)]
    dataset_digest: str | None = None
    n_positive: int | None = None
    n_negative: int | None = None
    n_held_out: int | None = None
    chat_template_digest: str | None = None
    seed: int | None = None
    layers: dict[int, LayerEvidence]
    chosen_layer: int
    chosen_because: str
    created: str | None = None
    versions: dict[str, str] = {}


class VectorInfo(Response):
    """A registered vector: `GET /v1/vectors/NAME`, and each entry of `GET /v1/vectors`."""

    name: str
    sha256: str
    metadata: VectorMetadata


class VectorList(Response):
    """`GET /v1/vectors`."""

    vectors: list[VectorInfo]


class ErrorDetail(Response):
    """OpenAI's error body."""

    message: str
    type: str
    param: str | None = None
    code: int | str | None = None


class ErrorBody(Response):
    """OpenAI's error envelope."""

    error: ErrorDetail
