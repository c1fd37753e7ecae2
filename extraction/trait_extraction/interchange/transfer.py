"""Measures a vector of one model on the model that it is applied to."""

from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.positions import Positions
from trait_core.vectors.file import VectorFile

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.fitting.evaluation import measure
from trait_extraction.plan import Plan, Settings
from trait_extraction.reading.activations import read
from trait_extraction.reading.source import Model, Source


def measure_on(model: Model, vector: VectorFile, dataset: TraitDataset) -> VectorFile:
    """A vector that was applied to the served model, with that model's separation, centre, norms and held-out evidence.

    The directions were fitted on the extraction model's activations of the training scenarios; the same
    scenarios are held out here. Intervals and cosines are left out, since they would need further directions to be fitted.

    Args:
        model: The model that it was applied to.
        vector: As `trait_core.vectors.transfer.apply_to` gives it.
        dataset: The scenarios that the vector was made from.

    Raises:
        InvalidRequestError: The vector was not applied to another model, or its file does not record the split.
        ChatTemplateError: The scenarios are chats, and the model takes none.
        DatasetError: The vector was made from other scenarios.
        ServiceError: The service failed.
    """
    meta = vector.metadata
    if meta.extracted_on is None:
        raise InvalidRequestError(f"the {meta.trait} vector was extracted on {meta.model}: there is nothing to measure")
    held_out = meta.method_options.get("held_out")
    if meta.seed is None or not isinstance(held_out, float):
        raise InvalidRequestError(f"the {meta.trait} vector does not record which scenarios were held out")
    if dataset.digest != meta.dataset_digest:
        raise DatasetError(
            f"{dataset.origin[0]}: the {meta.trait} vector was made from other scenarios ({meta.dataset_digest}; these are "
            f"{dataset.digest})"
        )
    variables = meta.method_options.get("chat_template_kwargs")
    settings = Settings(Positions.parse(meta.positions), meta.seed, held_out, splits=1, chat_template_kwargs=variables)
    plan, info = Plan.of(dataset, settings), model.info()
    plan.check_model(info)
    activations = read(plan, Source(model, info))
    layers = measure(vector.directions, activations, activations.plan.splits[0])
    source = meta.extracted_on.model_copy(update={"evidence": "this_model"})
    return VectorFile(meta.model_copy(update={"layers": layers, "extracted_on": source}), vector.directions)
