"""Sweeps against a service that answers from memory, through the real HTTP client.

Run as a script (`python test_sweep.py FOLDER`) this file sweeps slowly and reports what is committed: the process that
the kill test kills.
"""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy
from trait_client.errors import DatasetError, InvalidRequestError, ServiceError, UnknownVectorError
from trait_client.experiment import Experiment
from trait_client.http import AsyncTraitClient
from trait_client.results import ResultsError, ResultStore
from trait_client.schema import LayerEvidence, VectorMetadata
from trait_client.sweep import run_sweep
from trait_client.vector_file import VectorFile, sha256_of

N_LAYERS, D_MODEL = 4, 8
QUESTIONS = [f"Question number {i}?" for i in range(6)]


def vector_file(trait="shouting", method="mean_diff", seed=1):
    rng = np.random.default_rng(seed)
    directions = {layer: rng.standard_normal(D_MODEL).astype(np.float32) for layer in range(N_LAYERS)}
    directions = {layer: d / np.linalg.norm(d) for layer, d in directions.items()}
    meta = VectorMetadata(
        trait=trait, method=method, model="m", config_digest="c", n_layers=N_LAYERS, d_model=D_MODEL,
        positions="response[:]", chosen_layer=2, chosen_because="test",
        layers={layer: LayerEvidence(separation=2.0, centre=0.5, residual_norm=20.0) for layer in range(N_LAYERS)},
    )  # fmt: skip
    return VectorFile(meta, directions)


class MemoryService:
    """Shouts when steered by a trait's vector; a random direction changes nothing."""

    def __init__(self, *vectors, delay=0.0, versions=None):
        self.files = {file.metadata.trait: file.to_bytes() for file in vectors or (vector_file(),)}
        self.delay = delay
        self.versions = versions or {"service": "1"}
        self.chats = []
        self.readings = 0
        self.at_once = self.most_at_once = 0
        self.fails = lambda _body: None
        self.fails_reading = lambda _body: None

    def client(self, **options):
        return AsyncTraitClient("http://memory", transport=httpx.MockTransport(self.answer), retries=0, **options)

    async def answer(self, request):
        path = request.url.path
        if path == "/v1/vectors":
            return httpx.Response(200, json={"vectors": [self.entry(name) for name in self.files]})
        if path.startswith("/v1/vectors/"):
            name = path.rpartition("/")[2]
            if request.method == "PUT":
                self.files[name] = request.content
                return httpx.Response(200, json=self.entry(name))
            return httpx.Response(200, content=self.files[name])
        if path == "/v1/steering":
            return httpx.Response(200, json=self.info())
        if path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        body = json.loads(request.content)
        return await self.chat(body) if path == "/v1/chat/completions" else self.read(body)

    async def chat(self, body):
        self.chats.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.delay)
        self.at_once -= 1
        if error := self.fails(body):
            return error
        prompt = body["messages"][-1]["content"]
        text = f"This is a calm and short reply to {prompt}"
        report = None
        if "steering" in body:
            (term,) = body["steering"]["terms"]
            if any(sha256_of(self.files[t]) == term["vector"] for t in self.files if not t.startswith("random")):
                text = text.upper()
            applied = {**term, "sha256": term["vector"], "layer": term["layers"][0], "a": 1.0, "relative_dose": 0.1}
            report = {"applied": [applied], "positions": {"prompt": 5, "generated": 9}}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
        return httpx.Response(
            200, json={"id": "x", "model": "m", "choices": [choice], "usage": usage, "steering": report}
        )

    def read(self, body):
        """Upper case lies along every trait's direction; an empty prompt costs one nat a token more."""
        self.readings += 1
        if error := self.fails_reading(body):
            return error
        inputs, layers = body["inputs"], body["layers"]
        traits = [VectorFile.from_bytes(data) for name, data in self.files.items() if not name.startswith("random")]
        mean = np.zeros((len(inputs), len(layers), D_MODEL), np.float32)
        nll = np.zeros(len(inputs), np.float32)
        for i, item in enumerate(inputs):
            nll[i] = 1.5 if item["messages"][-1]["content"] else 2.5
            if item["response"].isupper():
                mean[i] = sum(np.stack([file.directions[layer] for layer in layers]) for file in traits)
        count = np.ones(len(inputs), np.int32)
        meta = {
            "model": "m", "config_digest": "c", "n_layers": N_LAYERS, "d_model": D_MODEL, "dtype": "float32",
            "layers": layers, "positions": body["positions"],
        }  # fmt: skip
        tensors = {
            "mean/response[:]": mean, "norm/response[:]": mean.sum(-1), "count/response[:]": count,
            "n_prompt": count, "n_response": count, "nll": nll,
        }  # fmt: skip
        data = safetensors.numpy.save(tensors, metadata={"trait": json.dumps(meta)})
        return httpx.Response(200, content=data)

    def entry(self, name):
        data = self.files[name]
        meta = VectorFile.from_bytes(data).metadata.model_dump(mode="json")
        return {"name": name, "sha256": sha256_of(data), "metadata": meta}

    def info(self):
        return {
            "model": "m", "config_digest": "c", "chat_template_digest": "t", "n_layers": N_LAYERS, "d_model": D_MODEL,
            "dtype": "float32", "quantization": None, "residual_norms": [20.0] * N_LAYERS, "operations": ["add"],
            "scopes": ["all"], "units": ["dose"], "versions": self.versions,
            "limits": {"max_terms": 1, "max_relative_dose": 2.0, "max_layers_per_term": 1, "terms_per_layer": 1,
                       "bank_rows": 8, "max_num_seqs": 4, "max_activation_inputs": 8, "max_positions": 2},
        }  # fmt: skip


def write_datasets(folder, traits=("shouting",), metric=None):
    for trait in traits:
        place = folder / "style" / trait
        place.mkdir(parents=True)
        values = {"questions": QUESTIONS, "direction": "positive", "metric": metric or {"kind": "uppercase_share"}}
        (place / "steering.json").write_text(json.dumps(values))


def experiment_of(folder, **values):
    defaults = {
        "name": "x", "traits": ["shouting"], "datasets": "datasets", "coefficients": [1.0, 2.0], "layers": [1, 2],
        "n_prompts": 3, "control": {"random_directions": 2},
    }  # fmt: skip
    return Experiment.from_values(defaults | values, folder=folder)


def sweep(folder, service, progress=None, patience=10.0, **values):
    async def go():
        async with service.client() as client:
            store = ResultStore(folder / "r.duckdb", patience)
            return await run_sweep(experiment_of(folder, **values), client, store, progress)

    return asyncio.run(go())


def rows(folder, sql):
    return ResultStore(folder / "r.duckdb").query(sql)[1]


@pytest.fixture
def folder(tmp_path):
    write_datasets(tmp_path / "datasets")
    return tmp_path


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
    assert service.most_at_once == 8  # twice max_num_seqs


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
    assert (again.chats, again.readings) == ([], 0)


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
    refusal = httpx.Response(400, json={"error": {"message": "too many words", "type": "BadRequestError"}})
    service.fails = lambda body: refusal if QUESTIONS[1] in body["messages"][-1]["content"] else None
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
    refusal = httpx.Response(400, json={"error": {"message": "too long", "type": "BadRequestError"}})
    poison = QUESTIONS[1].upper()
    service.fails_reading = lambda body: refusal if any(poison in i["response"] for i in body["inputs"]) else None
    outcome = sweep(folder, service)
    assert (outcome.status, outcome.trials_failed, outcome.unscored) == ("partial", 0, 4)
    repaired = MemoryService()
    assert sweep(folder, repaired).status == "ok"
    assert repaired.chats == []


def test_a_service_that_goes_away_ends_the_sweep_early(folder):
    class Gone(MemoryService):
        async def answer(self, request):
            if len(self.chats) >= 10:
                raise httpx.ConnectError("gone", request=request)
            return await super().answer(request)

    service = Gone(delay=0.01)
    outcome = sweep(folder, service)
    assert outcome.status == "partial"
    assert outcome.trials_run + outcome.trials_failed < outcome.trials_total
    assert sweep(folder, MemoryService()).trials_resumed == outcome.trials_run


def test_an_empty_reply_has_coherence_0_and_no_projection(folder):
    service = MemoryService()
    usage = {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    empty = {"index": 0, "message": {"content": ""}, "finish_reason": "stop"}
    reply = {"id": "x", "model": "m", "choices": [empty], "usage": usage}
    service.fails = lambda body: None if "steering" in body else httpx.Response(200, json=reply)
    assert sweep(folder, service).status == "ok"
    sql = "SELECT DISTINCT s.value, p.value FROM trials t JOIN scores s USING (trial_id) JOIN projections p USING (trial_id) WHERE text = '' AND s.name = 'coherence'"
    assert rows(folder, sql) == [(0.0, None)]


def test_a_changed_metric_scores_stored_text_again(folder):
    sweep(folder, MemoryService())
    (folder / "datasets/style/shouting/steering.json").unlink()
    (folder / "datasets/style/shouting").rmdir()
    write_datasets(folder / "datasets", metric={"kind": "matches", "patterns": ["^THIS"]})
    service = MemoryService()
    assert sweep(folder, service).status == "ok"
    assert (service.chats, service.readings) == ([], 0)
    assert rows(folder, "SELECT DISTINCT steered FROM trial_deltas WHERE measure = 'lexical'") == [(100.0,)]


def test_interruption_keeps_what_was_committed(folder):
    async def go():
        async with MemoryService(delay=0.2).client() as client:
            experiment, store = experiment_of(folder), ResultStore(folder / "r.duckdb")
            running = asyncio.create_task(run_sweep(experiment, client, store))
            await asyncio.sleep(0.7)
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
            seen.append(ResultStore(folder / "r.duckdb").read("SELECT count(*) FROM trials").source)

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
    sql = "SELECT DISTINCT (steering->'applied'->0->>'a')::DOUBLE FROM trials JOIN cells USING (cell_id) WHERE kind = 'steered'"
    assert rows(folder, sql) == [(1.0,)]


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
