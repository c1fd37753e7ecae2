import pytest
from engine_lab import EngineResult, Job, Reference
from engine_lab import run_engine as run


@pytest.fixture(scope="session")
def run_engine(tmp_path_factory):
    """`run_engine(job) -> EngineResult`, each on an engine of its own."""

    def start(job: Job) -> EngineResult:
        return run(job, tmp_path_factory.mktemp("engine"))

    return start


@pytest.fixture(scope="session")
def reference():
    """`reference(path) -> Reference`, loaded once."""
    loaded: dict[str, Reference] = {}

    def load(path) -> Reference:
        if str(path) not in loaded:
            loaded[str(path)] = Reference(str(path))
        return loaded[str(path)]

    return load
