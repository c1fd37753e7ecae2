import engine_forms
import pytest
import tiny_models
from engine_harness import EngineHost, EngineResult, Job, Reference


@pytest.fixture(scope="session")
def engine_hosts():
    """`engine_hosts(form) -> EngineHost`, made once for each form (`engine_forms`)."""
    hosts: dict[str, EngineHost] = {}

    def host_of(form: str) -> EngineHost:
        if form not in hosts:
            hosts[form] = EngineHost(form)
        return hosts[form]

    yield host_of
    for host in hosts.values():
        host.close()


@pytest.fixture(scope="module")
def form(request) -> str:
    """The form in which a module's engines run; `in_forms` gives it more than one."""
    asked = getattr(request, "param", engine_forms.V1_SYNC)
    if engine_forms.lacks_triton(asked):
        pytest.skip("Triton's interpreter is not installed: make test-triton")
    return asked


@pytest.fixture(scope="module")
def run_engine(engine_hosts, form, tmp_path_factory):
    """`run_engine(job) -> EngineResult`, each on an engine of its own."""

    def start(job: Job) -> EngineResult:
        return engine_hosts(form).run(job, tmp_path_factory.mktemp("engine"))

    return start


@pytest.fixture(scope="module")
def reference():
    """`reference(path) -> Reference`, loaded once for a module: kept longer, they fill the memory that engines want."""
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
