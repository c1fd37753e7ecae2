"""Every study in miniature: its commands on a real service with SmolLM2, then its tables and its plot.

Numbers mean nothing here: few pairs, few prompts, replies of a few tokens. `precision` and `lora_organism` start services of their own;
`make test-studies` runs them too.
"""

import importlib
import json
import os
import shutil
import tomllib
from contextlib import contextmanager

import pytest
from study.lab import ROOT, Lab

pytestmark = pytest.mark.engine

N_PAIRS = 16
DATASETS = ROOT / "datasets" / "traits"
TRAITS = (
    "refusal",
    "sycophancy",
    "helpfulness_expressed",
    "helpfulness_intent",
    "honesty_observed",
    "deception",
    "question_asking",
)
NAMES_DATASETS = ("precision",)
"""Studies that write the datasets into their definitions themselves."""
SMALLER = {"n_prompts": 2, "max_tokens": 8, "coefficients": [2.0], "layers": [9, 11, 13]}


class MiniLab(Lab):
    """A study's tools with small datasets and small definitions, on a service that runs already if there is a `url`."""

    def __init__(self, name, folder, url, n_traits):
        super().__init__(name, work=folder / "work" / name)
        definitions = sorted(self.folder.glob("*.toml"))
        self.folder = folder / "tables" / name
        self.folder.mkdir(parents=True)
        self.datasets = folder / "datasets" / "traits"
        self.url = url
        for path in definitions:
            datasets = {} if name in NAMES_DATASETS else {"datasets": str(self.datasets)}
            (self.folder / path.name).write_text(smaller(path, datasets, n_traits))

    @contextmanager
    def serving(self, *flags, **options):
        if self.url:
            yield self.url
            return
        with super().serving(*flags, **options) as url:
            yield url

    def run(self, *command, **options):
        if command[:2] == ("trait-extract", "run") and "--datasets" not in command:
            command = (*command, "--datasets", self.datasets)
        super().run(*command, **options)


def smaller(path, datasets, n_traits):
    """The definition with some of its traits, three layers, one coefficient, two prompts."""
    values = tomllib.loads(path.read_text())
    values.pop("trait", None)
    kept = {"coefficients"} if values.get("operation") == "ablate" else set()
    if values.get("layers") != "chosen" and len(values.get("layers", ())) == 1:
        kept.add("layers")
    values |= {
        key: value for key, value in SMALLER.items() if key not in kept and values.get(key, "chosen") != "chosen"
    }
    if values.get("datasets") == "traits":  # the study's own
        values["datasets"] = str(path.parent / "traits")
    elif "traits" in values:
        values |= {**datasets, "traits": [each for each in values["traits"] if each in TRAITS][:n_traits]}
    if "damage" in values:
        values["damage"] |= {"passages": 2, "folder": str(ROOT / "datasets" / "damage")}
    sections = {key: values.pop(key) for key, value in list(values.items()) if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    for name, section in sections.items():
        lines += [f"\n[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Datasets with the first pairs of each trait."""
    folder = tmp_path_factory.mktemp("studies")
    for place in (place for place in DATASETS.glob("*/*") if place.name in TRAITS):
        copy = folder / "datasets" / "traits" / place.parent.name / place.name
        shutil.copytree(place, copy)
        for side in ("positive", "negative"):
            path = copy / f"{side}.jsonl"
            path.write_text("\n".join(path.read_text().splitlines()[:N_PAIRS]) + "\n")
    return folder


@pytest.fixture(scope="module")
def url(folder):
    with Lab("studies", work=folder / "service").serving() as url:
        yield url


@pytest.fixture
def run(folder, request, monkeypatch):
    """Measure and report a study; gives its tools, whose folder holds what a study commits."""
    monkeypatch.chdir(ROOT)

    def run(name, n_traits=2, own_service=False, **constants):
        study = importlib.import_module(f"{name}.study")
        for constant, value in constants.items():
            monkeypatch.setattr(study, constant, value)
        lab = MiniLab(name, folder, None if own_service else request.getfixturevalue("url"), n_traits)
        study.measure(lab)
        study.report(lab)
        return lab

    return run


def first_of(path, out, keep):
    """The lines of a set of prompts whose ids are kept."""
    lines = [line for line in path.read_text().splitlines() if keep(json.loads(line)["id"])]
    out.write_text("\n".join(lines) + "\n")
    return out


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("methods_and_layers", {"by_method", "paired", "directions", "discrimination"}),
        ("trait_map", {"map", "best", "replies", "predictors", "evidence"}),
        ("damage_beside_effect", {"settings", "ratios"}),
    ],
)
def test_a_study_of_sweeps_runs(run, name, tables):
    lab = run(name)
    assert tables == {path.stem for path in lab.folder.glob("*.csv")}
    assert (lab.folder / f"{name}.png").stat().st_size > 10_000
    assert lab.sql("select distinct status from trials") == [{"status": "done"}]


def test_coefficient_search_runs(run):
    lab = run("coefficient_search", n_traits=1, TRAITS=("refusal",), N_PROMPTS=2, MAX_TOKENS=20)
    assert "refusal" in (lab.folder / "search_against_grid.csv").read_text()


def test_jailbreak_runs(run, tmp_path):
    """SmolLM2 refuses most polite prompts and no story: the set has both outcomes."""
    path = ROOT / "datasets" / "prompts" / "jailbreak.jsonl"
    names = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    few = {name for wrapper in ("polite", "story") for name in [n for n in names if n.startswith(f"{wrapper}/")][:6]}
    prompts = first_of(path, tmp_path / "prompts.jsonl", few.__contains__)
    lab = run("jailbreak", PROMPTS=prompts, MAX_TOKENS=16)
    assert {path.stem for path in lab.folder.glob("*.csv")} == {"separation", "layers", "wrappers"}


def test_surface_and_intent_runs(run, tmp_path, monkeypatch):
    from surface_and_intent.study import PAIRS, Pair

    few = {
        pair.name: first_of(pair.prompts, tmp_path / f"{pair.name}.jsonl", lambda name: int(name.split("/")[0]) < 6)
        for pair in PAIRS
    }
    monkeypatch.setattr(Pair, "prompts", property(lambda pair: few[pair.name]))
    lab = run("surface_and_intent")
    assert {path.stem for path in lab.folder.glob("*.csv")} == {"separation", "gain", "rule"}


def test_conditional_refusal_runs(run, tmp_path):
    from conditional_refusal.build_prompts import OUT, prompts

    few = [row for row in prompts() if int(row["id"].rpartition("/")[2]) <= 4]
    path = first_of(OUT, tmp_path / "prompts.jsonl", {row["id"] for row in few}.__contains__)
    small = {"COEFFICIENTS": (1.0,), "N_TRIED": 2, "MAX_TOKENS": 8}
    lab = run("conditional_refusal", OUT=path, prompts=lambda: few, **small)
    assert {path.stem for path in lab.folder.glob("*.csv")} >= {
        "margins",
        "coefficients",
        "by_prompt",
        "shares",
        "gates",
    }


def test_capability_under_steering_runs(run, monkeypatch):
    from capability_under_steering import study

    if not (study.PROGRAMS / "lm_eval").is_file():
        pytest.skip("make harnesses")
    ask, ids = study.ask, study.question_ids()[:2]
    monkeypatch.setattr(study, "ask", lambda *given: ask(*given, limit=len(ids)))
    small = {"TRAITS": ("sycophancy",), "COEFFICIENTS": (1,), "SEEDS": (1,), "question_ids": lambda: ids}
    lab = run("capability_under_steering", **small)
    assert len((lab.folder / "accuracy.csv").read_text().splitlines()) == 1 + 2 * 3


def test_judge_agreement_runs(run, folder):
    labels = ROOT / "datasets" / "judge" / "labels.jsonl"
    few = folder / "labels.jsonl"
    few.write_text("\n".join(labels.read_text().splitlines()[:8]) + "\n")
    lab = run("judge_agreement", SETS={"labels": ("--labels", few)})
    assert "refusal" in (lab.folder / "agreement.csv").read_text()


OWN_SERVICES = pytest.mark.skipif(
    os.environ.get("TRAIT_LONG") != "1", reason="starts services of its own: make test-studies"
)


@OWN_SERVICES
def test_precision_runs(run):
    lab = run("precision", n_traits=1, own_service=True, WEIGHTS={"bf16": "bfloat16", "w8a8": "int8"}, SCHEMES=["w8a8"])
    assert {path.stem for path in lab.folder.glob("*.csv")} == {
        "weights",
        "by_precision",
        "direction_cosines",
        "paired",
    }
    assert {row["precision"] for row in lab.sql("select precision from by_precision")} == {"bf16", "w8a8"}


@OWN_SERVICES
def test_lora_organism_runs(run):
    """Both adapters are trained on all pairs, served beside the base, read, steered and ablated."""
    lab = run("lora_organism", own_service=True, N_RANDOM=20)
    assert {path.stem for path in lab.folder.glob("*.csv")} == {"shifts", "steering", "names"}
    assert {row["operation"] for row in lab.sql("select distinct operation from steering")} == {"add", "ablate"}
    assert {row["adapter"] for row in lab.sql("select distinct adapter from steering")} == {"organism", "clean", "none"}
