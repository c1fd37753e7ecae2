"""Apply a vector of one model to another of the same shape, for example a base model's to its instruct model.

The directions do not change. The file names the model it is for and the model the directions come from.
"""

from trait_core.errors import InvalidRequestError
from trait_core.schema import ExtractedOn, ServiceInfo, VectorMetadata
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile


def is_of_another_model(metadata: VectorMetadata, info: ServiceInfo) -> bool:
    """Tell whether a vector was made for another model than the served one.

    Another shape is another model; so are other weights, if both are known. The served name is not compared: one model
    can have many.
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
    """Make a file for the served model with the same directions and both models in its metadata.

    The residual norms, which scale doses, become the served model's, as measured on its built-in text. All other evidence
    stays that of the extraction model, and `extracted_on.evidence` says so.

    Args:
        vector: A file for any model.
        info: The served model.

    Returns:
        The file for the served model; the same object if it already is.

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
