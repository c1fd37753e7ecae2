"""From a trait's scenarios to vector files: plan, elicit, read, fit, evaluate, choose a layer, store.

Each stage keeps its results (`trait_extraction.reading.stage_store`, and the vector files themselves), so that the same
command continues where it was stopped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trait_core.vectors.file import VectorFile

from trait_extraction.data.datasets import TraitDataset
from trait_extraction.massive import SUFFIX, MassiveDimensions
from trait_extraction.output.evidence_rows import StoredVector, write_evidence
from trait_extraction.output.vector_files import Extracted, VectorFolder
from trait_extraction.plan import Plan, Settings, default_positions
from trait_extraction.reading.calibration import FILE as CALIBRATIONS
from trait_extraction.reading.calibration import calibrate
from trait_extraction.reading.reply_check import ElicitationError, ReplyCheck, require_a_check
from trait_extraction.reading.source import Model, Source, VectorService
from trait_extraction.reading.stage_store import FOLDER, KeyedLines, StageStore
from trait_extraction.reading.tally import Tally
from trait_extraction.stages import OF_ONE_TRAIT, Failed, Stages
from trait_extraction.works import InFiles, InMemory, RunOptions, check_methods, registry_names


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
    (made,) = Stages([InMemory(plan, source, methods)], check, source.report).run()
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
) -> list[InFiles]:
    info, works = service.info(), []
    for plan in plans:
        with _listed(plan.name, failed):
            plan.check_model(info)
            stored = StageStore(out / FOLDER / plan.dataset.trait)
            source = Source(service, info, stored, options.force, options.report)
            folder = VectorFolder.of(out, plan.dataset, plan.settings.suffix)
            works.append(InFiles(plan, source, methods, service, folder, options))
    return works


def _planned(dataset: TraitDataset, settings: Settings, methods: Sequence[str], check: ReplyCheck) -> Plan:
    """A plan, with everything checked that can be checked before the service is asked."""
    registry_names(dataset.name, methods, settings.suffix)
    plan = Plan.of(dataset, settings)
    if plan.needs_replies:
        require_a_check(dataset, check)
    return plan
