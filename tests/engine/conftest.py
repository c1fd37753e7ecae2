import pytest
import tiny_models
from engine_harness import EngineHost, EngineResult, Job, Reference


@pytest.fixture(scope="session")
def run_engine(tmp_path_factory):
    """`run_engine(job) -> EngineResult`, each on an engine of its own."""
    host = EngineHost()

    def start(job: Job) -> EngineResult:
        return host.run(job, tmp_path_factory.mktemp("engine"))

    yield start
    host.close()


@pytest.fixture(scope="session")
def reference():
    """`reference(path) -> Reference`, loaded once."""
    loaded: dict[str, Reference] = {}

    def load(path) -> Reference:
        if str(path) not in loaded:
            loaded[str(path)] = Reference(str(path))
        return loaded[str(path)]

    return load


@pytest.fixture(scope="session")
def tiny_llama_path(smollm2_path, tmp_path_factory):
    """A random Llama of a few layers."""
    return tiny_models.make_llama(tmp_path_factory.mktemp("tiny-llama"), smollm2_path)
