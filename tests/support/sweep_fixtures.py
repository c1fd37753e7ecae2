"""Fixtures for sweeps: traits, experiments, and a service whose steered replies shout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_service import FakeService, Pool
from fake_text import last_text
from trait_client.sweeps.experiment import Experiment
from trait_core.schema import ActivationInput, AppliedTerm
from trait_core.vectors.file import VectorFile
from vector_fixtures import made_vector

N_LAYERS = 4
QUESTIONS = [f"Question number {i}?" for i in range(6)]


def vector_file(trait: str = "shouting", method: str = "mean_diff", seed: int = 1) -> VectorFile:
    """A vector on every layer of the fake service's model."""
    return made_vector(range(N_LAYERS), seed, trait=trait, method=method, chosen_layer=2)


class MemoryService(FakeService):
    """Shouts when steered by a trait's vector; a random direction changes nothing. A reply says what it answers."""

    def __init__(self, *vectors: VectorFile, **options: Any) -> None:
        super().__init__(*(vectors or (vector_file(),)), **options)

    def reply(self, body: dict, prompt: str, applied: Sequence[AppliedTerm]) -> str:
        text = f"This is a calm and short reply to {prompt}"
        return text.upper() if any(not term.vector.startswith("random") for term in applied) else text

    def pool(self, item: ActivationInput, positions: str, layers: Sequence[int]) -> Pool:
        """Upper case lies along every trait's direction."""
        files = [VectorFile.from_bytes(data) for name, data in self.files.items() if not name.startswith("random")]
        along = np.sum([[file.directions[layer] for layer in layers] for file in files], axis=0)
        mean = along if (item.response or "").isupper() else np.zeros_like(along)
        return Pool(mean, mean.sum(-1), 1)

    def nll(self, item: ActivationInput) -> float:
        """An empty prompt costs one nat a token more."""
        return 1.5 if last_text(item) else 2.5


class Silent(MemoryService):
    """Says nothing unless it is steered."""

    def reply(self, body: dict, prompt: str, applied: Sequence[AppliedTerm]) -> str:
        return super().reply(body, prompt, applied) if applied else ""


def write_datasets(folder: Path, traits: Sequence[str] = ("shouting",), metric: dict | None = None) -> None:
    """Traits of one kind, with the same questions."""
    for trait in traits:
        place = folder / "style" / trait
        place.mkdir(parents=True)
        values = {"questions": QUESTIONS, "direction": "positive", "metric": metric or {"kind": "uppercase_share"}}
        (place / "steering.json").write_text(json.dumps(values))


def write_experiment(folder: Path, *, n_prompts: int = 2, random_directions: int = 1) -> None:
    """`experiment.toml` of one layer at one coefficient, as a user would write it."""
    (folder / "experiment.toml").write_text(f"""
name = "x"
traits = ["shouting"]
datasets = "datasets"
coefficients = [1.0]
layers = [1]
n_prompts = {n_prompts}
control = {{random_directions = {random_directions}}}
""")


def experiment_of(folder: Path, **values: Any) -> Experiment:
    """Two layers at two coefficients, with two controls, unless `values` say otherwise."""
    defaults = {
        "name": "x", "traits": ["shouting"], "datasets": "datasets", "coefficients": [1.0, 2.0], "layers": [1, 2],
        "n_prompts": 3, "control": {"random_directions": 2},
    }  # fmt: skip
    return Experiment.from_values(defaults | values, folder=folder)
