"""The stages of one trait's run, each of which keeps what it has done."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from trait_core.errors import VectorFileError
from trait_core.schema import Elicitation, ServiceInfo
from trait_core.vectors.file import VectorFile

from trait_extraction.data.balance import balance_warnings, measure_balance
from trait_extraction.data.datasets import TraitDataset
from trait_extraction.fitting.layer_choice import LayerChoice
from trait_extraction.fitting.projections import write_projections
from trait_extraction.fitting.vectors import Provenance, Settings, build_vectors, with_layer
from trait_extraction.reading.activations import ActivationService, needs_generation, read_activations
from trait_extraction.reading.elicitation import Judge, elicitation_line, vet
from trait_extraction.reading.generation import generate_replies
from trait_extraction.reading.stage_store import FOLDER, CaptureStore, KeyedLines

logger = logging.getLogger(__name__)


class Stages:
    """One trait on its way from scenarios to vector files.

    Args:
        service: Where the model runs.
        info: What it serves.
        out: The folder of vector files.
        dataset: The trait.
        settings: How its vectors are made.
        force: Nothing that stands is used.
        report: Takes a line of progress.
    """

    def __init__(
        self,
        service: ActivationService,
        info: ServiceInfo,
        out: Path,
        dataset: TraitDataset,
        settings: Settings,
        *,
        force: bool,
        report: Callable[[str], None],
    ) -> None:
        self._service = service
        self._info = info
        self._dataset = dataset
        self._settings = settings
        self._force = force
        self._report = report
        self._files = out / dataset.trait if dataset.default_style else out / dataset.trait / dataset.style
        self._stages = out / FOLDER / dataset.trait

    def elicit(self, judge: Judge | None, *, unvetted: bool) -> tuple[TraitDataset, Elicitation | None]:
        """Generate and vet the replies, where the dataset has none.

        Returns:
            The dataset with replies, and the check of them; the dataset as it is, and None, where none are needed.

        Raises:
            ElicitationError: The replies do not show the trait, or nothing can tell, and `unvetted` is not set.
            ServiceError: The service failed.
        """
        dataset = self._dataset
        if not needs_generation(dataset, self._settings.positions):
            return dataset, None
        replies = generate_replies(
            self._service,
            self._info,
            dataset,
            self._settings.generation,
            KeyedLines(self._stages / "replies.jsonl"),
            again=self._force,
            report=self._report,
        )
        scores = KeyedLines(self._stages / "judgements.jsonl")
        kept, found = vet(dataset, replies, judge, scores, unvetted=unvetted)
        self._report(f"{dataset.name}: {elicitation_line(found)}")
        replied = dataset.with_replies(kept, replies.positive, replies.negative)
        balance = measure_balance(replied)
        for warning in [] if balance is None else balance_warnings(balance):
            self._report(f"{dataset.name}: of the generated replies, {warning}")
        return replied, found

    def make(
        self, dataset: TraitDataset, methods: Sequence[str], steered: LayerChoice | None, found: Elicitation | None
    ) -> dict[str, tuple[Path, VectorFile, bool]]:
        """Method -> (path, vector, reused), one capture for all that are missing.

        Args:
            dataset: With replies.
            methods: Names of methods.
            steered: The layer that steering results chose.
            found: The check of generated replies.
        """
        settings, report, name = self._settings, self._report, dataset.name
        paths = {method: self._files / f"{method}.safetensors" for method in methods}
        wanted = {method: Provenance.of(dataset, self._info, method, settings, found) for method in paths}
        kept = {} if self._force else {m: v for m, p in wanted.items() if (v := _standing(paths[m], p)) is not None}
        missing = {method: provenance for method, provenance in wanted.items() if method not in kept}
        for method in kept:
            report(f"{name}: {method} stands already, made from the same ({paths[method]})")
        made: dict[str, VectorFile] = {}
        if missing:
            report(f"{name}: reading {2 * dataset.n_scenarios} texts at {settings.positions} on {self._info.model}")
            store = CaptureStore(self._stages)
            activations = read_activations(self._service, dataset, settings.positions, store, again=self._force)
            layers = self._info.n_layers
            report(f"{name}: fitting {', '.join(missing)} on {layers} layers, {settings.splits} splits")
            splits = settings.split(dataset.n_scenarios)
            made = build_vectors(missing, activations, splits, steered)
            write_projections(paths, made, activations, splits[0])
        if steered is not None:
            for method, vector in kept.items():
                if (vector.metadata.chosen_layer, vector.metadata.chosen_because) != steered:
                    report(f"{name}: {method} takes the layer that steering chose, {steered[0]}")
                    made[method] = with_layer(vector, steered)
        return {m: (paths[m], made[m] if m in made else kept[m], m not in made) for m in paths}


def _standing(path: Path, provenance: Provenance) -> VectorFile | None:
    """The vector file at `path`, if it was made from the same."""
    if not path.is_file():
        return None
    try:
        vector = VectorFile.load(path)
    except VectorFileError as error:
        logger.warning("made again, since it cannot be read: %s", error)
        return None
    return vector if provenance.made(vector.metadata) else None
