"""Sweeps against a service that answers from memory, through the real HTTP client.

Run as a script (`python test_sweep.py FOLDER`) this file sweeps slowly and reports what is committed: the process that
the kill test kills.
"""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))  # as a script

from fake_registry import refusal
from fake_service import ACTIVATIONS, CHATS
from sweep_fixtures import N_LAYERS, QUESTIONS, MemoryService, Silent, experiment_of, vector_file, write_datasets
from trait_client.http import AsyncTraitClient
from trait_client.results import ResultsError, ResultStore
from trait_client.sweeps import run_sweep
from trait_core.errors import DatasetError, InvalidRequestError, ServiceError, UnknownVectorError
from trait_core.vectors.file import VectorFile


def sweep(folder, service, progress=None, patience=10.0, **values):
    async def go():
        async with service.client() as client:
            store = ResultStore(folder / "r.duckdb", patience)
            return await run_sweep(experiment_of(folder, **values), client, store, progress)

    return asyncio.run(go())


def rows(folder, sql):
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def test_every_cell_runs_on_every_prompt_and_baselines_once(folder):
    service = MemoryService()
    outcome = sweep(folder, service)
    n_cells = 2 * 2 * (1 + 2)
    assert (outcome.status, outcome.trials_total, outcome.unscored) == ("ok", 3 * n_cells + 3, 0)
    assert len(service.chats) == 3 * n_cells + 3
    assert rows(folder, "SELECT kind, count(*) FROM trials JOIN cells USING (cell_id) GROUP BY kind ORDER BY kind") == [
        ("baseline", 3),
        ("control", 24),
        ("steered", 12),
    ]


def test_all_cells_are_sent_concurrently(folder):
    service = MemoryService(delay=0.01)
    sweep(folder, service)
    assert service.most_at_once[CHATS] == 8  # twice max_num_seqs


def test_the_views_show_the_effect_and_its_control(folder):
    sweep(folder, MemoryService())
    ((trait, n, delta, ci_low, ci_high, coherence, low, high, effect, measure),) = rows(
        folder,
        "SELECT trait, n, delta, ci_low, ci_high, coherence, control_low, control_high, effect, measure "
        "FROM best_coherent",
    )
    assert (trait, n, coherence, low, high, effect, measure) == ("shouting", 3, 100.0, 0.0, 0.0, True, "lexical")
    assert ci_low <= delta <= ci_high
    assert delta > 90


def test_projection_and_relevance_are_read_back_unsteered(folder):
    sweep(folder, MemoryService())
    sql = "SELECT DISTINCT round(steered, 3), round(baseline, 3) FROM cell_summary WHERE measure = 'projection'"
    assert rows(folder, sql) == [(0.5, -0.5)]  # 1 and 0 along the direction, minus the centre
    assert rows(folder, "SELECT DISTINCT name, value FROM scores WHERE name = 'relevance'") == [("relevance", 1.0)]


def test_a_second_run_sends_nothing(folder):
    sweep(folder, MemoryService())
    again = MemoryService()
    outcome = sweep(folder, again)
    assert (outcome.status, outcome.trials_run, outcome.trials_resumed) == ("ok", 0, outcome.trials_total)
    assert (again.chats, again.requests[ACTIVATIONS]) == ([], [])


def test_a_grown_experiment_runs_only_what_is_new(folder):
    sweep(folder, MemoryService(), coefficients=[1.0])
    service = MemoryService()
    outcome = sweep(folder, service, coefficients=[1.0, 2.0], n_prompts=4)
    assert outcome.trials_resumed == 3 * 6 + 3
    assert len(service.chats) == (4 * 12 + 4) - (3 * 6 + 3)


def test_another_engine_version_is_another_trial(folder):
    sweep(folder, MemoryService())
    assert sweep(folder, MemoryService(versions={"service": "2"})).trials_resumed == 0


def test_failed_trials_are_recorded_and_tried_again(folder):
    service = MemoryService()
    too_many = refusal(400, "too many words")
    service.fails[CHATS] = lambda body: too_many if QUESTIONS[1] in body["messages"][-1]["content"] else None
    outcome = sweep(folder, service)
    assert (outcome.status, outcome.trials_failed) == ("partial", 13)
    assert outcome.errors == (("ServiceError: too many words", 13),)
    assert rows(folder, "SELECT DISTINCT error FROM trials WHERE status = 'failed'") == [
        ("ServiceError: too many words",)
    ]
    repaired = MemoryService()
    assert (sweep(folder, repaired).status, len(repaired.chats)) == ("ok", 13)
    assert rows(folder, "SELECT count(*) FROM trials WHERE status = 'failed'") == [(0,)]


def test_a_reply_that_cannot_be_read_leaves_the_others_scored_and_is_read_next_time(folder):
    service = MemoryService()
    too_long, poison = refusal(400, "too long"), QUESTIONS[1].upper()
    service.fails[ACTIVATIONS] = lambda body: (
        too_long if any(poison in item["response"] for item in body["inputs"]) else None
    )
    outcome = sweep(folder, service)
    assert (outcome.status, outcome.trials_failed, outcome.unscored) == ("partial", 0, 4)
    repaired = MemoryService()
    assert sweep(folder, repaired).status == "ok"
    assert repaired.chats == []


def test_a_service_that_goes_away_ends_the_sweep_early(folder):
    class Gone(MemoryService):
        async def answer_async(self, request):
            if len(self.chats) >= 10:
                raise httpx.ConnectError("gone", request=request)
            return await super().answer_async(request)

    service = Gone(delay=0.01)
    outcome = sweep(folder, service)
    assert outcome.status == "partial"
    assert outcome.trials_run + outcome.trials_failed < outcome.trials_total
    assert sweep(folder, MemoryService()).trials_resumed == outcome.trials_run


def test_an_empty_reply_has_coherence_0_and_no_projection(folder):
    assert sweep(folder, Silent()).status == "ok"
    sql = "SELECT DISTINCT s.value, p.value FROM trials t JOIN scores s USING (trial_id) JOIN projections p USING (trial_id) WHERE text = '' AND s.name = 'coherence'"
    assert rows(folder, sql) == [(0.0, None)]


def test_a_changed_metric_scores_stored_text_again(folder):
    sweep(folder, MemoryService())
    (folder / "datasets/style/shouting/steering.json").unlink()
    (folder / "datasets/style/shouting").rmdir()
    write_datasets(folder / "datasets", metric={"kind": "matches", "patterns": ["^THIS"]})
    service = MemoryService()
    assert sweep(folder, service).status == "ok"
    assert (service.chats, service.requests[ACTIVATIONS]) == ([], [])
    assert rows(folder, "SELECT DISTINCT steered FROM trial_deltas WHERE measure = 'lexical'") == [(100.0,)]


def test_interruption_keeps_what_was_committed(folder):
    async def go():
        async with MemoryService(delay=0.2).client() as client:
            experiment, store = experiment_of(folder), ResultStore(folder / "r.duckdb")
            committed = asyncio.Event()

            def look(progress):
                if progress.trials_done >= 8:
                    committed.set()

            running = asyncio.create_task(run_sweep(experiment, client, store, look))
            await asyncio.wait_for(committed.wait(), 60)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    asyncio.run(go())
    assert rows(folder, "SELECT status FROM runs") == [("interrupted",)]
    ((n_done,),) = rows(folder, "SELECT count(*) FROM trials WHERE status = 'done'")
    assert n_done >= 8
    outcome = sweep(folder, MemoryService())
    assert (outcome.status, outcome.trials_resumed) == ("ok", n_done)


def test_queries_work_while_a_sweep_runs(folder):
    seen = []

    def look(progress):
        if progress.trials_done and not seen:
            ResultStore(folder / "r.duckdb").query("SELECT 1")
            seen.append(ResultStore(folder / "r.duckdb").query("SELECT count(*) FROM trials").source)

    sweep(folder, MemoryService(delay=0.05), look)
    assert seen == ["snapshot"]
    assert not (folder / "r.duckdb.snapshot").exists()


def test_a_second_sweep_on_the_same_database_is_refused(folder):
    holder = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(folder / "r.duckdb")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ResultsError, match="written by another process"):
            sweep(folder, MemoryService(), patience=0.2)
    finally:
        process.kill()
        process.wait()


def test_a_killed_sweep_resumes_with_nothing_lost_and_nothing_twice(folder):
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
    done = 0
    for line in process.stdout:
        done = int(line)
        if done >= 20:
            break
    process.send_signal(signal.SIGKILL)
    rest = [int(line) for line in process.stdout.read().split()]
    process.wait()
    reported = max([done, *rest])
    ((stored,),) = rows(folder, "SELECT count(*) FROM trials WHERE status = 'done'")
    assert stored >= reported
    service = MemoryService()
    outcome = sweep(folder, service, n_prompts=6)
    assert (outcome.status, outcome.trials_resumed) == ("ok", stored)
    assert len(service.chats) == outcome.trials_total - stored
    assert rows(folder, "SELECT count(*), count(DISTINCT cell_id || prompt_id) FROM trials") == [
        (outcome.trials_total, outcome.trials_total)
    ]
    assert rows(folder, "SELECT status FROM runs ORDER BY started_at") == [("interrupted",), ("ok",)]


def test_vectors_are_found_by_trait_and_method(folder):
    service = MemoryService(vector_file(), vector_file(method="probe", seed=2))
    service.files = {
        "shouting": vector_file().to_bytes(),
        "shouting.probe": vector_file("shouting", "probe", 2).to_bytes(),
    }
    sweep(folder, service, methods=["mean_diff", "probe"])
    assert rows(folder, "SELECT method, place FROM method_comparison ORDER BY method") == [
        ("mean_diff", 1),
        ("probe", 1),
    ]


def test_a_vector_of_another_place_in_the_block_is_steered_and_read_there(folder):
    stream = vector_file()
    file = VectorFile(stream.metadata.model_copy(update={"hook_point": "mlp_out"}), stream.directions)
    sweep(folder, MemoryService(file, hook_points=["resid_post", "mlp_out"]))
    assert rows(folder, "SELECT DISTINCT hook_point, gate FROM cell_summary") == [("mlp_out", None)]
    sql = "SELECT DISTINCT round(steered, 3) FROM cell_summary WHERE measure = 'projection'"
    assert rows(folder, sql) == [(0.5,)]  # 1 along the direction, minus the centre


def test_the_chosen_layer_is_the_vector_files(folder):
    sweep(folder, MemoryService(), layers="chosen")
    assert rows(folder, "SELECT DISTINCT layer FROM cells WHERE kind <> 'baseline'") == [(2,)]


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"traits": ["other"]}, DatasetError, "'other'"),
        ({"methods": ["probe"]}, UnknownVectorError, "no probe vector"),
        ({"layers": [7]}, InvalidRequestError, "layer 7"),
        ({"coefficients": [99.0]}, InvalidRequestError, "relative dose of 9.9: the service allows at most 2"),
        ({"n_prompts": 7}, InvalidRequestError, "has 6 questions"),
        ({"trait": {"shouting": {"vector": "nobody"}}}, UnknownVectorError, "'nobody'"),
    ],
)
def test_what_does_not_fit_the_service_is_refused_before_anything_runs(folder, values, error, words):
    service = MemoryService()
    with pytest.raises(error, match=words):
        sweep(folder, service, **values)
    assert service.chats == []
    assert not (folder / "r.duckdb").exists()


def test_random_directions_carry_the_traits_scale(folder):
    service = MemoryService()
    sweep(folder, service)
    name = next(name for name in service.files if name.startswith("random.1."))
    control, real = VectorFile.from_bytes(service.files[name]), vector_file()
    assert [control.evidence(i).residual_norm for i in range(N_LAYERS)] == [20.0] * N_LAYERS
    assert control.metadata.method == "random"
    assert not np.allclose(control.directions[1], real.directions[1])
    assert not np.allclose(control.directions[1], control.directions[2])


def test_the_steering_report_is_stored(folder):
    sweep(folder, MemoryService())
    sql = "SELECT DISTINCT (steering->'applied'->0->>'a')::DOUBLE FROM trials JOIN cells USING (cell_id) WHERE kind = 'steered' ORDER BY ALL"
    assert rows(folder, sql) == [(2.0,), (4.0,)]  # residual norm 20, in tenths


def test_an_unreachable_service_leaves_no_database(folder):
    async def go():
        async with AsyncTraitClient("http://127.0.0.1:9", retries=0) as client:
            await run_sweep(experiment_of(folder), client, ResultStore(folder / "r.duckdb"))

    with pytest.raises(ServiceError):
        asyncio.run(go())
    assert not (folder / "r.duckdb").exists()


def main(folder):
    def report(progress):
        print(progress.trials_done, flush=True)

    outcome = sweep(folder, MemoryService(delay=0.15), report, n_prompts=6)
    assert outcome.status == "ok"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
