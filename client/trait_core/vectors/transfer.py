"""A vector of one model, applied to another of the same shape: a base model's to its instruct model, say.

Directions stay as they are. The file says which model it is for and which one the directions come from.
"""

from trait_core.errors import InvalidRequestError
from trait_core.schema import ExtractedOn, ServiceInfo, VectorMetadata
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile


def is_of_another_model(metadata: VectorMetadata, info: ServiceInfo) -> bool:
    """Whether a vector is for another model than the one that is served.

    Shapes that differ are other models; so are weights that differ, where both are known. The served name says nothing:
    one model has many.
    """
    if metadata.config_digest != info.config_digest:
        return True
    digests = metadata.weights_digest, info.weights_digest
    return None not in digests and digests[0] != digests[1]


def check_shape(metadata: VectorMetadata, info: ServiceInfo) -> None:
    """Refuse a vector whose width or number of layers is not the served model's.

    Raises:
        InvalidRequestError: One of the two differs.
    """
    for field in ("d_model", "n_layers"):
        of_file, of_model = getattr(metadata, field), getattr(info, field)
        if of_file != of_model:
            raise InvalidRequestError(
                f"the vector has {field} {of_file}; the served model {info.model!r} has {of_model}", param=field
            )


def apply_to(vector: VectorFile, info: ServiceInfo) -> VectorFile:
    """The same directions in a file for the served model, with both models in its metadata.

    The residual norms, which doses are measured in, become the served model's, as it measured them on its built-in text. All
    other evidence remains that of the extraction model, and `extracted_on.evidence` says so.

    Args:
        vector: A file for any model.
        info: The served model.

    Returns:
        The file for the served model; the same object if it is for it already.

    Raises:
        InvalidRequestError: The models differ in width or number of layers.
    """
    meta = vector.metadata
    check_shape(meta, info)
    if not is_of_another_model(meta, info):
        return vector
    source = meta.extracted_on or ExtractedOn(
        model=meta.model,
        config_digest=meta.config_digest,
        weights_digest=meta.weights_digest,
        sha256=sha256_of(vector.to_bytes()),
    )
    changes = {
        "model": info.model,
        "config_digest": info.config_digest,
        "weights_digest": info.weights_digest,
        "extracted_on": source.model_copy(update={"evidence": "extraction_model"}),
        "layers": {
            layer: at.model_copy(update={"residual_norm": info.residual_norms[layer]})
            for layer, at in meta.layers.items()
        },
        "chosen_because": f"As on {source.model}. {meta.chosen_because.removeprefix(f'As on {source.model}. ')}",
    }
    return VectorFile(meta.model_copy(update=changes), vector.directions)
