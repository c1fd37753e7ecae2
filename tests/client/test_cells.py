"""Identities of cells and trials. Databases hold them: none of these values may ever change."""

import dataclasses

import pytest
from trait_client.results.rows import CellRow
from trait_client.sweeps.cells import COLUMN_OF, Cell, Intervention, Sampling, Trial
from trait_client.sweeps.experiment import Experiment
from trait_core.model_identity import ModelIdentity
from trait_core.schema import Gate, PositionScope, SteeringTerm

TRAIT, RANDOM = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SAMPLING = Sampling(system=None, max_tokens=48, temperature=0.0, top_p=1.0, seed=0)
MODEL = ModelIdentity(
    model="m", config_digest="sha256:c", chat_template_digest="sha256:t", dtype="bfloat16", quantization=None,
    precision="bfloat16", adapter="none", versions=(("trait_service", "0.2"), ("vllm", "0.32")),
)  # fmt: skip
BASELINE = "7cfbc3313442f4ddee45b519213cf37e"


def steered(vector=TRAIT, kind=SteeringTerm, **values):
    term = kind(**({"vector": vector, "coefficient": 2.0, "layers": [9]} | values))
    return Cell(MODEL, SAMPLING, Intervention("mood", TRAIT, "mean_diff", term))


SEVERAL = steered(
    layers=[9, 13], scope=PositionScope(positions=[3, 7]), operation="ablate", coefficient=0.0, preserve_norm=True
)


@pytest.mark.parametrize(
    ("cell", "cell_id", "setting_id", "control_of"),
    [
        (Cell(MODEL, SAMPLING), BASELINE, "76fa9025b0c86e77390ed3872e4c996c", None),
        (steered(), "a2e2f1913521adc810b2d35a68da7986", "533e903af0c15d7fc5b7d04151013af8", None),
        (SEVERAL, "dff98a7a0475be45ccf3286708a7b42e", "6e734a1c1cc8be3055bd2ed89c193c94", None),
        (
            steered(RANDOM),
            "63914642f4dd01030e99192108aa1897",
            "1cf7f1888810d438ffc886378c728c36",
            "533e903af0c15d7fc5b7d04151013af8",
        ),
    ],
)
def test_the_ids_of_a_cell(cell, cell_id, setting_id, control_of):
    assert (cell.cell_id, cell.setting_id, cell.control_of) == (cell_id, setting_id, control_of)
    assert cell.baseline.cell_id == BASELINE


def test_the_id_of_a_trial():
    assert Trial(steered(), "How are you?").trial_id == "fa5867b2432a94bc4422e307136dd2d4"


# ---------------------------------------------------------------------------------------------------- a new field of a term

BY_HAND = {"vector", "coefficient", "layers"}
"""Fields that an experiment, a grid point and a row name otherwise: `traits`, `coefficients`, a set of layers."""


class LaterTerm(SteeringTerm):
    """A term with a field that stored ids know nothing of."""

    foo: float = 0.0


def test_a_new_field_changes_ids_only_where_it_is_used():
    assert steered(kind=LaterTerm).cell_id == steered().cell_id
    assert steered(kind=LaterTerm, foo=1.0).cell_id != steered().cell_id


def test_a_new_field_is_sent_and_stored_without_another_line_of_code():
    change = steered(kind=LaterTerm, foo=1.0).intervention
    assert change.columns()["foo"] == 1.0
    assert change.steering().terms[0].model_dump()["foo"] == 1.0


def test_every_field_of_a_term_is_a_key_of_the_experiment_and_a_column_of_its_cells():
    names = SteeringTerm.model_fields.keys() - BY_HAND
    assert names <= Experiment.model_fields.keys()
    assert {COLUMN_OF.get(name, name) for name in names} <= {field.name for field in dataclasses.fields(CellRow)}


# ------------------------------------------------------------------------------------------------- hook points and gates

GATE = Gate(vector=RANDOM, layer=3, above=0.5)


def test_the_ids_of_a_cell_at_a_hook_point_and_under_a_gate():
    assert steered(at="mlp_out").cell_id == "b57e26a2852bfd9b84e057f1eaf9b1d6"
    assert steered(when=GATE).cell_id == "992d3bf540c6a8be085a761d16e9e276"


def test_the_name_of_a_gates_vector_is_no_part_of_an_id():
    change = steered(when=GATE).intervention
    named = Cell(MODEL, SAMPLING, dataclasses.replace(change, gate="harmful@3>0.5"))
    assert named.cell_id == steered(when=GATE).cell_id
    assert named.intervention.columns()["gate"] == "harmful@3>0.5"


def test_a_gate_is_part_of_the_id_and_of_its_controls():
    gates = [
        None,
        GATE,
        *(GATE.model_copy(update=change) for change in ({"hold": "latch"}, {"above": 0.25}, {"layer": 2})),
    ]
    assert len({steered(when=gate).setting_id for gate in gates}) == len(gates)
    assert steered(RANDOM, when=GATE).control_of == steered(when=GATE).setting_id
    assert steered(when=GATE).baseline.cell_id == BASELINE
