"""Metadata of a steering vector, in its file and in the registry."""

from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from trait_core.schema.base import (
    MAX_LAYERS,
    NAME_PATTERN,
    RESID_POST,
    SHA256_PATTERN,
    HookPoint,
    Request,
    Response,
    VectorReference,
)


class LayerEvidence(Response):
    """Measurements of one layer's direction, on training activations unless stated otherwise.

    Attributes:
        separation: mean(h+ . d) - mean(h- . d), residual units.
        centre: The midpoint of the two means, residual units.
        residual_norm: Mean token norm of the stream behind the block over positions 4 and later, residual units; so also in
            files for `attn_out` and `mlp_out`.
        accuracy: Held-out accuracy with the centre as threshold.
        auc: Held-out area under the ROC curve.
        cohens_d: Held-out Cohen's d, pooled standard deviation.
        polarity: Share of the held-out pairs whose positive projects above its negative; below 0.5 the direction is
            inverted.
        accuracy_interval: 95 per cent bootstrap interval of the held-out accuracy, over splits, seeds and scenarios.
        auc_interval: The same for the held-out AUC.
        cohens_d_interval: The same for the held-out Cohen's d; biased upwards if few pairs are held out.
        cosine_methods: Method -> cosine with the direction that it finds in the same activations.
        cosine_previous_layer: Cosine with this method's direction on the previous layer.
        massive_dimensions: The dimensions that hold most of the activations' squared norm, the largest first.
        massive_share: Their share of the activations' mean squared norm.
        massive_share_of_direction: Their share of the direction's squared length.
    """

    separation: float
    centre: float
    residual_norm: float
    accuracy: float | None = None
    auc: float | None = None
    cohens_d: float | None = None
    polarity: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    auc_interval: tuple[float, float] | None = None
    cohens_d_interval: tuple[float, float] | None = None
    cosine_methods: dict[str, float] | None = None
    cosine_previous_layer: float | None = None
    massive_dimensions: list[int] | None = None
    massive_share: float | None = None
    massive_share_of_direction: float | None = None


class Elicitation(Response):
    """Result of the check that generated replies show the trait on one side only, made before extraction.

    Attributes:
        n_generated: Generated pairs.
        n_kept: Pairs that the vector was extracted from.
        replies_digest: sha256 of all generated replies.
        checked_by: The trait's lexical metric, a judge, or nothing.
        checked_with: The metric's kind, or the judge's name.
        judged_by: The judge that dropped pairs, if there was one.
        auc: P(a reply from the side with the trait scores higher), ties counted half.
        min_auc: The minimum AUC that was required.
        mean_high: Mean score of the side with the trait, 0 to 100.
        mean_low: Mean score of the other side.
        passed: False if the replies were used without passing, as requested by `--allow-unchecked`.
        fault: Reason why it did not pass.
    """

    n_generated: int
    n_kept: int
    replies_digest: str
    checked_by: Literal["metric", "judge", "nothing"] = "nothing"
    checked_with: str | None = None
    judged_by: str | None = None
    auc: float | None = None
    min_auc: float | None = None
    mean_high: float | None = None
    mean_low: float | None = None
    passed: bool = False
    fault: str | None = None


class ExtractedOn(Response):
    """The model that a file's directions come from, if the file is for another one.

    Attributes:
        sha256: The vector file that was applied to another model.
        evidence: `extraction_model`: all of `layers` except the residual norms was measured on the extraction model;
            `this_model`: measured again on this model, on scenarios that the directions were not fitted on.
    """

    model: Annotated[str, Field(max_length=1024)]
    config_digest: Annotated[str, Field(max_length=128)]
    weights_digest: Annotated[str, Field(max_length=128)] | None = None
    sha256: Annotated[str, Field(max_length=128)]
    evidence: Literal["extraction_model", "this_model"] = "extraction_model"


class VectorMetadata(BaseModel):
    """The JSON metadata entry (`trait`) of a vector file.

    Attributes:
        model: The model that the file is for; `config_digest` and `weights_digest` are its own.
        weights_digest: Digest of a sample of its weights' bytes; None if unknown, as in imported files.
        style: How the scenarios were written; None if unknown.
        derived: True for completions that were made from written pairs.
        elicitation: The check of generated replies; None for written replies.
        extracted_on: The model that the directions come from, if it is another one.
        hook_point: The place in the blocks that the directions are for; they are refused elsewhere.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    trait: Annotated[str, Field(pattern=NAME_PATTERN)]
    model: Annotated[str, Field(max_length=1024)]
    config_digest: Annotated[str, Field(max_length=128)]
    weights_digest: Annotated[str, Field(max_length=128)] | None = None
    extracted_on: ExtractedOn | None = None
    n_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)]
    d_model: Annotated[int, Field(ge=1, le=1_000_000)]
    hook_point: HookPoint = RESID_POST
    layer_convention: Literal["output of 0-based decoder block"] = "output of 0-based decoder block"
    method: Annotated[str, Field(pattern=NAME_PATTERN)]
    method_options: dict[str, Any] = {}
    positions: Annotated[str, Field(max_length=64)]
    dataset_digest: str | None = None
    style: Literal["written", "instructed", "completions", "continued"] | None = None
    derived: bool | None = None
    elicitation: Elicitation | None = None
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


class VectorVersion(Response):
    """A file that a name points or pointed to.

    Attributes:
        version: Counted from 1 for each name.
        registered: UTC, ISO 8601; None if it was not recorded.
    """

    version: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]
    registered: str | None = None


class VectorInfo(Response):
    """A registered vector: `GET /v1/vectors/NAME`, and each entry of `GET /v1/vectors`.

    Attributes:
        version: Number of this version of the name.
        versions: All versions that the registry keeps for the name, oldest first; each can be used by its `sha256`.
    """

    name: str
    sha256: str
    version: int = 1
    versions: Annotated[list[VectorVersion], Field(default_factory=list)]
    metadata: VectorMetadata


class VectorPointer(Request):
    """`PUT /v1/vectors/NAME` with JSON: the name points to a vector that is already registered.

    Attributes:
        vector: A name, or `sha256:...` of any version.
    """

    vector: VectorReference


class VectorUpload(Request):
    """`PUT /v1/vectors/NAME` with JSON: a file, for load balancers that only pass JSON bodies.

    Attributes:
        file: base64 of the safetensors bytes.
        sha256: Their expected sha256.
        allow_other_model: Accept a vector of another model with the same shape.
    """

    file: Base64Bytes
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)]
    allow_other_model: bool = False


class VectorList(Response):
    """`GET /v1/vectors`.

    Attributes:
        revision: Revision of the registry, increased by every change; services that share a folder compare it.
    """

    revision: int = 0
    vectors: list[VectorInfo]
