"""From a trait's scenarios to vector files: plan, elicit, read, fit, evaluate, choose a layer, store.

Each stage keeps its results (`trait_extraction.reading.stage_store`, and the vector files themselves), so that the same
command continues where it was stopped.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trait_client.results import ResultStore
from trait_core.errors import InvalidRequestError
from trait_core.schema import is_name
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.fitting.directions import LAYER_METHOD, fit
from trait_extraction.fitting.evaluation import evaluate
from trait_extraction.fitting.layer_choice import LayerChoice, choose_layer, steered_layer
from trait_extraction.fitting.methods import METHODS
from trait_extraction.fitting.projections import HeldOutProjections
from trait_extraction.fitting.provenance import Provenance
from trait_extraction.fitting.vectors import build, with_layer
from trait_extraction.massive import SUFFIX, MassiveDimensions
from trait_extraction.output.evidence_rows import StoredVector, write_evidence
from trait_extraction.output.vector_files import Extracted, Made, VectorFolder
from trait_extraction.plan import Plan, Settings, default_positions
from trait_extraction.reading.activations import read
from trait_extraction.reading.calibration import FILE as CALIBRATIONS
from trait_extraction.reading.calibration import calibrate
from trait_extraction.reading.reply_check import ElicitationError, ReplyCheck, require_a_check
from trait_extraction.reading.source import Model, Source, VectorService
from trait_extraction.reading.stage_store import FOLDER, KeyedLines, StageStore
from trait_extraction.reading.tally import Tally
from trait_extraction.stages import OF_ONE_TRAIT, Failed, Stages

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """Choices of a run beyond the vectors themselves.

    Args:
        register: Put every vector into the service's registry.
        force: Make existing files again, and generate and read their inputs again.
        check: How generated replies are checked.
        results: Result database. If it has a sweep of the trait, the layer that steers best there overrides the one
            chosen from evidence. The evidence is stored there.
        report: Receives progress messages.
    """

    register: bool = False
    force: bool = False
    check: ReplyCheck = field(default_factory=ReplyCheck)
    results: ResultStore | None = None
    report: Callable[[str], None] = logger.info


def extract(
    model: Model,
    dataset: TraitDataset,
    methods: Sequence[str] = ("mean_diff",),
    settings: Settings | None = None,
    *,
    cache: Path | None = None,
    check: ReplyCheck | None = None,
) -> dict[str, VectorFile]:
    """Make the vectors of one trait in memory; no vector file is written and nothing is registered.

    ::

        dataset = load_trait(find_trait(Path("datasets/traits"), "refusal"))
        with TraitClient("http://127.0.0.1:8000") as client:
            vectors = extract(client, dataset, ["mean_diff", "probe"])
        vectors["probe"].save(Path("probe.safetensors"))

    Args:
        model: The model that reads the scenarios: a `TraitClient`, or anything with its methods `info`, `activations` and,
            for datasets without replies, `chat`.
        dataset: The trait (`trait_extraction.data.datasets.load_trait`).
        methods: Names of methods, from `METHODS`.
        settings: Positions, split and seed; None reads the default positions with the default split.
        cache: Folder that keeps replies and activations, so that a second call reads only what is missing.
        check: How generated replies are checked; None checks them with the trait's metric.

    Returns:
        Method -> vector file.

    Raises:
        InvalidRequestError: An unknown method, or positions or a split that do not fit the dataset.
        DatasetError: A scenario has no token at the positions.
        ElicitationError: Generated replies do not show the trait, or nothing can tell whether they do.
        ChatTemplateError: The model takes no chats, or its template refuses them.
        DirectionError: The activations do not define a direction.
        ServiceError: The model failed.
    """
    check_methods(methods)
    plan = Plan.of(dataset, settings or Settings(default_positions(dataset)))
    check = check or ReplyCheck()
    if plan.needs_replies:
        require_a_check(dataset, check)
    source = Source(model, model.info(), StageStore(cache))
    plan.check_model(source.info)
    (made,) = Stages([_InMemory(plan, source, methods)], check, source.report).run()
    if isinstance(made, Failed):
        raise made.error
    return {method: one.vector for method, one in made.items()}


def run(
    service: VectorService,
    jobs: Sequence[tuple[TraitDataset, Settings]],
    methods: Sequence[str],
    out: Path,
    options: RunOptions | None = None,
) -> list[Extracted]:
    """Make the vector files of each trait, one for each method, as `<out>/<trait>/<method>.safetensors`.

    Files of a style that is not the trait's default are in `<out>/<trait>/<style>/`. A file that was made from the same
    dataset, model, method and settings is reused, and so are generated replies and captured activations
    (`<out>/.stages/<trait>/`). Everything that can be checked is checked before the model reads anything.

    Args:
        service: The model and its registry.
        jobs: Traits, and how their vectors are made.
        methods: Names of methods; the first one's vector is registered as `<trait>`, others as `<trait>.<method>`; for a
            style that is not the default as `<trait>.<style>` and `<trait>.<style>.<method>`.
        out: The folder of vector files.
        options: Registration, reuse, check of replies, result database.

    Returns:
        The vector files, in order of trait and method.

    Raises:
        InvalidRequestError: A method, a name or positions that cannot be used.
        DatasetError: A scenario has no token at the positions.
        ElicitationError: Generated replies do not show the trait, or nothing can tell whether they do.
        DirectionError: The activations do not define a direction.
        ServiceError: The service failed.
        ResultsError: The database cannot be read or written; the vector files are complete.
    """
    outcome = run_all(service, jobs, methods, out, options)
    if len(outcome.failed) == 1:
        raise outcome.failed[0].error
    if outcome.failed:
        raise ElicitationError("\n".join(str(one.error) for one in outcome.failed))
    return outcome.extracted


@dataclass(frozen=True)
class Outcome:
    """Result of a run of many traits.

    Args:
        extracted: The vector files, in order of trait and method.
        failed: The traits that could not be made, and why.
        tally: Counts of what the model did.
    """

    extracted: list[Extracted]
    failed: list[Failed]
    tally: Tally

    def joined(self, other: "Outcome") -> "Outcome":
        """Both runs' vectors and failures, a vector without massive dimensions after the one with them.

        The counts are the first run's: the other reads what that one stored.
        """
        order = {one.name: i for i, one in enumerate(self.extracted)}
        both = [*self.extracted, *other.extracted]
        both.sort(key=lambda one: order.get(one.name.removesuffix(SUFFIX), len(order)))
        return Outcome(both, self.failed + other.failed, self.tally)


def run_all(
    service: VectorService,
    jobs: Sequence[tuple[TraitDataset, Settings]],
    methods: Sequence[str],
    out: Path,
    options: RunOptions | None = None,
) -> Outcome:
    """As `run`, for many traits: one that cannot be made does not stop the others, and is in the outcome with the reason.

    All traits go through the model together (`trait_extraction.stages`). A run that is stopped continues with the same
    call: replies, activations and vector files that exist are not made again.

    Raises:
        InvalidRequestError: A method that does not exist.
        ServiceError: The service failed.
        ResultsError: The database cannot be read or written; the vector files are complete.
    """
    options = options or RunOptions()
    check_methods(methods)
    plans, failed = list[Plan](), list[Failed]()
    for dataset, settings in jobs:
        with _listed(dataset.name, failed):
            plans.append(_planned(dataset, settings, methods, options.check))
    works = _checked_against_model(plans, service, methods, out, options, failed) if plans else []
    stages = Stages(works, options.check, options.report)
    results = stages.run()
    extracted = [one for result in results if not isinstance(result, Failed) for one in result]
    if options.results is not None:
        write_evidence(options.results, [StoredVector(e.registered or e.name, e.sha256, e.vector) for e in extracted])
    failed += [result for result in results if isinstance(result, Failed)]
    return Outcome(extracted, failed, stages.tally)


def calibrated(service: Model, out: Path, options: RunOptions | None = None) -> MassiveDimensions:
    """The massive dimensions of the served model, found once and stored in `<out>/.stages`.

    Raises:
        ServiceError: The service failed.
    """
    options = options or RunOptions()
    source = Source(service, service.info(), StageStore(), options.force, options.report)
    return calibrate(source, KeyedLines(out / FOLDER / CALIBRATIONS))


def registry_names(trait: str, methods: Sequence[str], suffix: str = "") -> dict[str, str]:
    """Method -> name at the service: the trait's own for the first method, `<trait>.<method>` for others.

    With a suffix it is `<trait>.<method><suffix>` for all of them.

    Raises:
        InvalidRequestError: No method, an unknown one, or a name that is too long.
    """
    check_methods(methods)
    names = {method: f"{trait}.{method}{suffix}" for method in methods}
    if not suffix:
        names[methods[0]] = trait
    for name in names.values():
        if not is_name(name):
            raise InvalidRequestError(f"{name!r} is not a name for a vector: 64 characters at most", param="trait")
    return names


def check_methods(methods: Sequence[str]) -> None:
    """Refuse methods that do not exist.

    Raises:
        InvalidRequestError: No method, or an unknown one.
    """
    if not methods:
        raise InvalidRequestError(f"no method: give one of {', '.join(METHODS)}", param="method")
    for method in methods:
        if method not in METHODS:
            raise InvalidRequestError(
                f"unknown method {method!r}: the methods are {', '.join(METHODS)}", param="method"
            )


@dataclass(frozen=True)
class _InMemory:
    """The vectors of one trait, in memory."""

    plan: Plan
    source: Source
    methods: Sequence[str]

    def needs_activations(self, _plan: Plan) -> bool:
        return True

    def finish(self, plan: Plan, source: Source) -> dict[str, Made]:
        return _make(plan, source, self.methods, None)


@dataclass
class _InFiles:
    """The vector files of one trait: those that exist are reused."""

    plan: Plan
    source: Source
    methods: Sequence[str]
    service: VectorService
    folder: VectorFolder
    options: RunOptions
    _steered: LayerChoice | None = None
    _reused: dict[str, Made] = field(default_factory=dict)

    def needs_activations(self, plan: Plan) -> bool:
        results, trait, info = self.options.results, plan.dataset.trait, self.source.info
        self._steered = None if results is None else steered_layer(results, trait, info)
        if not self.options.force:
            self._reused = _reuse(plan, self.source, self.methods, self.folder, self._steered)
        return len(self._reused) < len(self.methods)

    def finish(self, plan: Plan, source: Source) -> list[Extracted]:
        missing = [method for method in self.methods if method not in self._reused]
        made = self._reused | _make(plan, source, missing, self._steered)
        ordered = {method: made[method] for method in self.methods}
        return _store(plan.name, ordered, self.folder, self.service, self.options)


@contextmanager
def _listed(name: str, failed: list[Failed]) -> Iterator[None]:
    """Add a trait to the failed ones if its checks raise an error."""
    try:
        yield
    except OF_ONE_TRAIT as error:
        failed.append(Failed(name, error))


def _checked_against_model(
    plans: Sequence[Plan],
    service: VectorService,
    methods: Sequence[str],
    out: Path,
    options: RunOptions,
    failed: list[Failed],
) -> list[_InFiles]:
    info, works = service.info(), []
    for plan in plans:
        with _listed(plan.name, failed):
            plan.check_model(info)
            stored = StageStore(out / FOLDER / plan.dataset.trait)
            source = Source(service, info, stored, options.force, options.report)
            folder = VectorFolder.of(out, plan.dataset, plan.settings.suffix)
            works.append(_InFiles(plan, source, methods, service, folder, options))
    return works


def _planned(dataset: TraitDataset, settings: Settings, methods: Sequence[str], check: ReplyCheck) -> Plan:
    """A plan, with everything checked that can be checked before the service is asked."""
    registry_names(dataset.name, methods, settings.suffix)
    plan = Plan.of(dataset, settings)
    if plan.needs_replies:
        require_a_check(dataset, check)
    return plan


def _reuse(
    plan: Plan, source: Source, methods: Sequence[str], folder: VectorFolder, steered: LayerChoice | None
) -> dict[str, Made]:
    """Vectors whose files were made from the same inputs, with the layer that steering results chose, if there is one."""
    reused = {}
    for method in methods:
        vector = folder.existing(Provenance.of(plan, source.info, method))
        if vector is None:
            continue
        source.report(f"{plan.name}: {method} exists already, made from the same inputs ({folder.file(method)})")
        reused[method] = Made(vector, reused=True)
        if steered is not None and (vector.metadata.chosen_layer, vector.metadata.chosen_because) != steered:
            source.report(f"{plan.name}: {method} now steers on layer {steered[0]}, which steering results chose")
            reused[method] = Made(with_layer(vector, steered))
    return reused


def _make(plan: Plan, source: Source, methods: Sequence[str], steered: LayerChoice | None) -> dict[str, Made]:
    """Make the vectors of a plan that has its replies, from one capture."""
    if not methods:
        return {}
    n_layers = source.info.n_layers
    activations = read(plan, source).without(plan.settings.massive)
    source.report(f"{plan.name}: fitting {', '.join(methods)} on {n_layers} layers, {len(plan.splits)} splits")
    fitted = fit(plan, activations, methods)
    evidence = evaluate(plan, activations, fitted)
    choice = steered or choose_layer(evidence[LAYER_METHOD])
    vectors = build(plan, source.info, fitted, evidence, choice)
    return {m: Made(v, HeldOutProjections.of(v, activations, plan.splits[0])) for m, v in vectors.items()}


def _store(
    trait: str, made: Mapping[str, Made], folder: VectorFolder, service: VectorService, options: RunOptions
) -> list[Extracted]:
    """Write the files of one trait, and register them."""
    names = registry_names(trait, list(made), folder.suffix) if options.register else {}
    extracted = []
    for method, one in made.items():
        path, data = folder.store(method, one)
        if method in names:
            service.put_vector(names[method], data)
            options.report(f"{trait}: registered {method} as {names[method]}")
        sha256, name = sha256_of(data), f"{trait}.{method}{folder.suffix}"
        extracted.append(Extracted(path, one.vector, sha256, one.reused, names.get(method), name))
    return extracted
