"""The service's description of itself, and its error body."""

from pydantic import Field

from trait_core.schema.base import RESID_POST, Hold, HookPoint, Operation, Response, Unit


class SteeringLimits(Response):
    """Limits of one request, and of the engine.

    Attributes:
        max_monitored: Vectors times layers of one monitor; older services do not say it.
        max_lens_readings: Layers times completions that a lens in replies may read in a step; None: the service has no such lens.
    """

    max_terms: int
    max_relative_dose: float
    max_layers_per_term: int
    terms_per_layer: int
    bank_rows: int
    max_num_seqs: int
    max_activation_inputs: int
    max_positions: int
    max_monitored: int = 32
    max_lens_readings: int | None = None


class ServiceInfo(Response):
    """`GET /v1/steering`.

    Attributes:
        config_digest: Digest of the model's shape, which a base model and its fine-tunes may share.
        weights_digest: Digest of a sample of the bytes of its weight files, or of the files it was quantised from here;
            None if they were not found.
        checkpoint_digest: As `weights_digest`, but always of the served files: a quantised copy has a different one.
        adapters: LoRA adapter -> digest of a sample of the bytes of its weight files, None if they were not found.
        has_chat_template: False for a base model, which takes raw text only.
        chat_template_variables: Variables of its chat template that a request may set (`chat_template_kwargs`); None if they
            are not known.
        reasoning_markers: Texts around a reply's reasoning, with a space between them; None if the model has none.
        residual_norms: Mean token norm after each block over positions 4 and later of a built-in text, `n_layers` long.
        hook_points: Places in a block that can be steered and read: `resid_post`, and those of `--hook-points`.
        holds: Ways in which the gate of a term may hold (`when`); empty: the engine has no gates, or is an older one.
        n_heads: Attention heads of a block, which can be captured (`head_out[0]` and so on); None: started without
            `--hook-points head_out`.
        weights: Dtype -> share of the bytes of the loaded weights, 0 to 1 (of the first pipeline stage).
    """

    model: str
    config_digest: str
    weights_digest: str | None = None
    checkpoint_digest: str | None = None
    adapters: dict[str, str | None] = Field(default_factory=dict)
    chat_template_digest: str | None
    has_chat_template: bool = True
    chat_template_variables: list[str] | None = None
    reasoning_markers: str | None = None
    n_layers: int
    d_model: int
    dtype: str
    quantization: str | None
    weights: dict[str, float] = Field(default_factory=dict)
    residual_norms: list[float]
    operations: list[Operation]
    hook_points: list[HookPoint] = Field(default_factory=lambda: [RESID_POST])
    holds: list[Hold] = Field(default_factory=list)
    n_heads: int | None = None
    scopes: list[str]
    units: list[Unit]
    limits: SteeringLimits
    versions: dict[str, str]


class ErrorDetail(Response):
    """OpenAI's error body."""

    message: str
    type: str
    param: str | None = None
    code: int | str | None = None


class ErrorBody(Response):
    """OpenAI's error envelope."""

    error: ErrorDetail
