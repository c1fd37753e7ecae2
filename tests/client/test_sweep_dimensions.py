"""A sweep's dimensions beyond trait, layer and coefficient: sets of layers, operations, scopes, sampling, adapters."""

import asyncio

import pytest
from fake_service import ACTIVATIONS
from sweep_fixtures import N_LAYERS, MemoryService, experiment_of, vector_file
from trait_client.results import ResultStore
from trait_client.sweeps import run_sweep
from trait_client.sweeps.experiment import size_of
from trait_core.errors import InvalidRequestError, UnknownVectorError, VectorFileError
from vector_fixtures import made_vector

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


# ------------------------------------------------------------------------------------------------- hook points and gates


class Branches(MemoryService):
    """Has a vector of each of two hook points, and a vector for gates."""

    def __init__(self, hook_points=("resid_post", "mlp_out"), **info):
        super().__init__(
            vector_file(),
            made_vector(range(N_LAYERS), 7, trait="harm", chosen_layer=1),
            hook_points=list(hook_points),
            **info,
        )
        branch = made_vector(range(N_LAYERS), 5, trait="shouting", chosen_layer=2, hook_point="mlp_out")
        self.files["shouting.mean_diff.mlp_out"] = branch.to_bytes()


def terms(service):
    return [body["steering"]["terms"][0] for body in service.chats if "steering" in body]


def test_hook_points_are_a_dimension_with_a_vector_each(folder):
    service = Branches()
    _, outcome = sweep(folder, service, at=["resid_post", "mlp_out"], control={"random_directions": 1})
    assert (outcome.status, outcome.trials_total) == ("ok", 3 * (1 + 2 * 2))
    assert sorted(str(term.get("at")) for term in terms(service)) == ["None"] * 6 + ["mlp_out"] * 6
    found = rows(folder, "SELECT hook_point, name, c.kind FROM cells c JOIN vectors v USING (sha256) ORDER BY ALL")
    assert [(at, name) for at, name, kind in found if kind == "steered"] == [
        ("mlp_out", "shouting.mean_diff.mlp_out"), ("resid_post", "shouting"),
    ]  # fmt: skip
    assert [at for at, _, kind in found if kind == "control"] == ["mlp_out", "resid_post"]


def test_replies_are_projected_at_the_hook_point_of_each_vector(folder):
    service = Branches()
    sweep(folder, service, at=["resid_post", "mlp_out"])
    read = {(body["at"], body["logprobs"]) for body in service.requests[ACTIVATIONS]}
    assert read == {("resid_post", True), ("mlp_out", False)}
    assert rows(folder, "SELECT DISTINCT hook_point, n FROM cell_summary WHERE measure = 'projection' ORDER BY ALL") == [
        ("mlp_out", 3), ("resid_post", 3),
    ]  # fmt: skip


def test_the_views_keep_hook_points_and_gates_apart(folder):
    sweep(folder, Branches(), at=["resid_post", "mlp_out"], when=["none", "harm@1>0.5"])
    expected = [("mlp_out", None), ("mlp_out", "harm@1>0.5"), ("resid_post", None), ("resid_post", "harm@1>0.5")]
    assert rows(folder, "SELECT hook_point, gate FROM best_coherent") == expected
    assert rows(folder, "SELECT hook_point, gate FROM method_comparison WHERE place = 1") == expected
    assert rows(folder, "SELECT count(*) FROM precision_delta") == [(0,)]


def test_two_precisions_are_compared_under_the_same_gate(folder):
    for precision in ("float32", "int8"):
        sweep(folder, Branches(), precision=precision, when=["none", "harm@1>0.5"])
    assert rows(folder, "SELECT gate, hook_point, reference, precision FROM precision_delta ORDER BY gate NULLS FIRST") == [
        (None, "resid_post", "float32", "int8"), ("harm@1>0.5", "resid_post", "float32", "int8"),
    ]  # fmt: skip


def test_a_gate_is_sent_by_hash_with_its_layer_and_stored_by_name(folder):
    service = Branches()
    sweep(folder, service, when=["none", "harm>0.5, separation"], control={"random_directions": 1})
    gates = [term["when"] for term in terms(service) if "when" in term]
    assert len(gates) == 6  # of the steered and of the control
    assert {(gate["vector"][:7], gate["layer"], gate["above"], gate["unit"]) for gate in gates} == {
        ("sha256:", 1, 0.5, "separation")
    }
    assert rows(folder, "SELECT kind, gate, v.name FROM cells JOIN vectors v ON v.sha256 = gate_sha256 ORDER BY ALL") == [
        ("control", "harm@1>0.5, separation", "harm"), ("steered", "harm@1>0.5, separation", "harm"),
    ]  # fmt: skip


def test_a_trial_keeps_at_how_many_positions_the_term_acted(folder):
    class Shut(Branches):
        """Its gate is open on the first question only, for two prompt positions and one token."""

        def _reports(self, applied, monitor, prompt, replies):
            report, monitored = super()._reports(applied, monitor, prompt, replies)
            for term in applied:
                if term.when is not None:
                    first = "0?" in [self.words[i] for i in prompt]
                    term.acted.prompt, term.acted.generated = (2, 1) if first else (0, 0)
            return report, monitored

    sweep(folder, Shut(), when=["none", "harm@1>0.5"])
    sql = "SELECT kind, gate, acted_prompt, acted_generated FROM trials JOIN cells USING (cell_id) WHERE kind <> 'baseline' ORDER BY ALL"
    gated = [row[2:] for row in rows(folder, sql) if row[1] is not None]
    assert gated == [(0, 0), (0, 0), (2, 1)]
    assert all(prompt > 0 and generated > 0 for _, gate, prompt, generated in rows(folder, sql) if gate is None)
    assert rows(
        folder, "SELECT DISTINCT acted_prompt FROM trials JOIN cells USING (cell_id) WHERE kind = 'baseline'"
    ) == [(None,)]
    found = rows(
        folder,
        "SELECT DISTINCT gate, round(acted_in, 3), round(acted_prompt, 3), round(acted_generated, 3) FROM cell_summary ORDER BY gate NULLS FIRST",
    )
    assert found == [(None, None, None, None), ("harm@1>0.5", 0.333, 0.667, 0.333)]


def test_a_sweep_from_before_hook_points_and_gates_resumes(folder):
    """The stream and no gate are what a definition without the keys means."""
    sweep(folder, Branches())
    again = Branches()
    _, outcome = sweep(folder, again, at="resid_post", when="none")
    assert (outcome.trials_run, again.chats) == (0, [])


def test_another_vector_under_the_gates_name_is_another_trial(folder):
    sweep(folder, Branches(), when="harm@1>0.5")
    changed = Branches()
    changed.files["harm"] = made_vector(range(N_LAYERS), 8, trait="harm", chosen_layer=1).to_bytes()
    _, outcome = sweep(folder, changed, when="harm@1>0.5")
    assert (outcome.trials_resumed, outcome.trials_run) == (3, 3)  # the baselines, and the rest


@pytest.mark.parametrize(
    ("hook_points", "values", "words"),
    [
        (["resid_post"], {"at": "mlp_out"}, "is for mlp_out, and the service has resid_post: start it with --hook-points mlp_out"),
        (["resid_post", "attn_out"], {"at": "attn_out"}, "no mean_diff vector at attn_out.*--trait shouting --at attn_out"),
        (["resid_post", "mlp_out"], {"at": "mlp_out", "trait": {"shouting": {"vector": "shouting"}}}, "is for resid_post, and at is mlp_out"),
        (["resid_post"], {"when": "nothing>1"}, "no vector 'nothing'"),
        (["resid_post"], {"when": "harm@9>1"}, "layer 9"),
        (["resid_post"], {"when": "harm@3>1"}, "read on layer 3, which is too late for resid_post of layer 2.*at most 2"),
        (["resid_post"], {"when": "harm@2>1, latch"}, "with hold 'latch' at most 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_steered_is_refused_before_anything_runs(folder, hook_points, values, words):
    service = Branches(hook_points)
    with pytest.raises((InvalidRequestError, UnknownVectorError, VectorFileError), match=words):
        sweep(folder, service, **values)
    assert service.chats == []
