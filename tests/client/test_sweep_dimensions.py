"""A sweep's dimensions beyond trait, layer and coefficient: sets of layers, operations, scopes, sampling, adapters."""

import asyncio

import pytest
from fake_service import ACTIVATIONS
from sweep_fixtures import MemoryService, experiment_of
from trait_client.results import ResultStore
from trait_client.sweeps import run_sweep
from trait_client.sweeps.experiment import size_of
from trait_core.errors import InvalidRequestError

ONE_CELL = {"layers": [2], "coefficients": [1.0], "control": {"random_directions": 0}}
ADAPTERS = {"organism": "sha256:aa"}


def sweep(folder, service, **values):
    async def go():
        async with service.client() as client:
            experiment = experiment_of(folder, **ONE_CELL | values)
            return experiment, await run_sweep(experiment, client, ResultStore(folder / "r.duckdb"))

    return asyncio.run(go())


def rows(folder, sql):
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def test_layers_in_one_list_are_steered_together(folder):
    service = MemoryService()
    sweep(folder, service, layers=[2, [1, 3]])
    steered = [body["steering"]["terms"][0]["layers"] for body in service.chats if "steering" in body]
    assert sorted(steered) == [[1, 3]] * 3 + [[2]] * 3
    assert rows(folder, "SELECT layer, layers FROM trait_summary ORDER BY layer") == [(2, [2]), (None, [1, 3])]


def test_a_set_of_layers_is_read_on_its_last_one(folder):
    sweep(folder, MemoryService(), layers=[[3, 1]])
    assert rows(folder, "SELECT DISTINCT layer FROM projections") == [(3,)]
    assert rows(folder, "SELECT delta FROM cell_summary WHERE measure = 'projection'")[0][0] > 0


def test_a_set_of_layers_has_its_control_on_the_same_layers(folder):
    sweep(folder, MemoryService(), layers=[[1, 3]], control={"random_directions": 2})
    assert rows(folder, "SELECT DISTINCT layers FROM cells WHERE kind = 'control'") == [([1, 3],)]
    assert rows(folder, "SELECT n_controls, effect FROM trait_summary") == [(2, True)]


def test_operations_scopes_and_sampling_are_dimensions(folder):
    experiment, outcome = sweep(
        folder, MemoryService(), operation=["add", "set"], scope=["all", {"positions": [0, 4]}, "response[:1], response[2::2]"],
        temperature=[0.0, 0.7], top_p=[1.0, 0.9], seeds=[0, 1],
    )  # fmt: skip
    n_samplings = 2 * 2 * 2
    assert outcome.trials_total == 3 * (2 * 3 * n_samplings + n_samplings) == size_of(experiment).trials
    found = rows(folder, "SELECT DISTINCT operation, scope FROM cells WHERE kind = 'steered' ORDER BY ALL")
    assert found == [(o, s) for o in ("add", "set") for s in ("all", "positions[0, 4)", "response[:1], response[2::2]")]
    assert rows(folder, "SELECT DISTINCT temperature, top_p, seeds FROM trait_summary ORDER BY ALL") == [
        (t, p, 2) for t in (0.0, 0.7) for p in (0.9, 1.0)
    ]


def test_ablation_is_one_cell_whatever_the_coefficients(folder):
    sweep(folder, MemoryService(), operation=["add", "ablate"], coefficients=[1.0, 2.0])
    found = rows(folder, "SELECT operation, coefficient FROM cells WHERE kind = 'steered' ORDER BY ALL")
    assert found == [("ablate", 0.0), ("add", 1.0), ("add", 2.0)]


def test_an_adapter_is_the_model_of_the_request_and_has_its_own_baseline(folder):
    service = MemoryService(adapters=ADAPTERS)
    sweep(folder, service, adapters=["none", "organism"])
    asked = [(body["model"], "steering" in body) for body in service.chats]
    assert sorted(asked) == sorted([("m", False), ("m", True), ("organism", False), ("organism", True)] * 3)
    assert rows(folder, "SELECT adapter, adapter_digest, kind FROM cells ORDER BY ALL") == [
        ("none", None, "baseline"),
        ("none", None, "steered"),
        ("organism", "sha256:aa", "baseline"),
        ("organism", "sha256:aa", "steered"),
    ]


@pytest.mark.parametrize(
    ("read_with", "asked", "stored"), [("base", {None}, "none"), ("adapter", {"organism"}, "organism")]
)
def test_scores_and_projections_say_what_read_the_reply(folder, read_with, asked, stored):
    service = MemoryService(adapters=ADAPTERS)
    sweep(folder, service, adapters=["organism"], read_with=read_with)
    assert {body.get("model") for body in service.requests[ACTIVATIONS]} == asked
    assert rows(folder, "SELECT DISTINCT reader FROM projections") == [(stored,)]
    assert rows(folder, "SELECT DISTINCT reader FROM scores WHERE name = 'coherence'") == [(stored,)]
    assert rows(folder, "SELECT DISTINCT reader FROM scores WHERE name = 'lexical'") == [(None,)]


def test_another_reader_reads_the_stored_replies_again(folder):
    sweep(folder, MemoryService(adapters=ADAPTERS), adapters=["organism"])
    again = MemoryService(adapters=ADAPTERS)
    _, outcome = sweep(folder, again, adapters=["organism"], read_with="adapter")
    assert (outcome.status, outcome.trials_run, again.chats) == ("ok", 0, [])
    assert rows(folder, "SELECT DISTINCT reader FROM projections") == [("organism",)]


def test_an_adapter_that_is_not_served_is_refused_before_anything_runs(folder):
    service = MemoryService(adapters=ADAPTERS)
    with pytest.raises(InvalidRequestError, match="adapter 'other' is not served: the service has organism"):
        sweep(folder, service, adapters=["other"])
    assert service.chats == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"checkpoint_digest": "sha256:1"}, {"checkpoint_digest": "sha256:2"}),
        ({"adapters": {"organism": "sha256:1"}}, {"adapters": {"organism": "sha256:2"}}),
    ],
)
def test_other_weights_under_the_same_name_are_other_trials(folder, before, after):
    adapters = ["organism"] if "adapters" in before else ["none"]
    sweep(folder, MemoryService(**before), adapters=adapters)
    assert sweep(folder, MemoryService(**before), adapters=adapters)[1].trials_run == 0
    assert sweep(folder, MemoryService(**after), adapters=adapters)[1].trials_resumed == 0


def test_what_served_is_stored_with_the_cell(folder):
    sweep(folder, MemoryService(checkpoint_digest="sha256:1", weights={"int8": 0.5, "float32": 0.5}))
    found = rows(folder, "SELECT DISTINCT checkpoint_digest, (weights->>'$.int8')::DOUBLE FROM cells")
    assert found == [("sha256:1", 0.5)]
