"""Sweeps with a judge beside them: a real HTTP judge, and what is left when it fails."""

import asyncio
import json
import time

import pytest
from cli_harness import runner
from fake_judge import RUBRIC, Fault, JudgeServer, completion, honest, judge_listening, rated_reply
from fake_service import ACTIVATIONS
from loopback import on_a_port
from sweep_fixtures import QUESTIONS, MemoryService, Silent, experiment_of, write_datasets
from trait_client.judge import JudgeConfig
from trait_client.results import ResultStore
from trait_client.sweeps import run_sweep
from trait_client.sweeps.rescore import rescore

TRIALS = 3 * 2 * (1 + 2) + 3
"""Of `experiment` below: prompts x coefficients x (steered and random directions), and the baselines."""


@pytest.fixture
def folder(tmp_path):
    write_datasets(tmp_path / "datasets")
    (tmp_path / "datasets" / "style" / "shouting" / "definition.txt").write_text(RUBRIC)
    return tmp_path


@pytest.fixture
def judge():
    with judge_listening(JudgeServer()) as listening:
        yield listening


def sweep(folder, judge, service=None, config=None, progress=None, **values):
    async def go():
        async with (service or MemoryService()).client() as client:
            table = (judge.config() if judge is not None else None) if config is None else config
            table = table.model_dump() if table is not None else None
            experiment = experiment_of(folder, layers=[1], judge=table, **values)
            return await run_sweep(experiment, client, ResultStore(folder / "r.duckdb"), progress)

    return asyncio.run(go())


def rows(folder, sql):
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def pending(folder):
    return rows(folder, "SELECT count(*) FROM scores WHERE mode = 'pending'")[0][0]


class Reasoning(MemoryService):
    """Reasons in small letters before it answers; a system prompt of the server's opens the reasoning."""

    def reply(self, body, prompt, applied):
        return f"a quiet thought</think>{super().reply(body, prompt, applied)}"


def test_reasoning_is_stored_apart_and_scores_and_judge_read_the_answer(folder, judge):
    service = Reasoning(reasoning_markers="<think> </think>")
    assert sweep(folder, judge, service).status == "ok"
    ((reasoning, texts),) = rows(
        folder, "SELECT DISTINCT reasoning, bool_or(contains(text, 'think')) FROM trials GROUP BY 1"
    )
    assert (reasoning, texts) == ("a quiet thought", False)
    sql = "SELECT DISTINCT s.value FROM scores s JOIN trials USING (trial_id) JOIN cells USING (cell_id)"
    assert rows(folder, f"{sql} WHERE kind = 'steered' AND s.name = 'lexical'") == [(100.0,)]
    read = [item["response"] for body in service.requests[ACTIVATIONS] for item in body["inputs"]]
    assert read
    assert not any("quiet thought" in text for text in [*read, *map(str, judge.bodies)])


def test_trait_and_coherence_of_every_reply_are_judged_once(folder, judge, monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-very-secret")
    config = judge.config(api_key_env="MY_JUDGE_KEY")
    outcome = sweep(folder, judge, config=config)
    assert (outcome.status, outcome.unscored, outcome.judge_pending) == ("ok", 0, 0)
    sql = "SELECT name, trait, count(*) FROM scores WHERE name LIKE 'judge%' AND mode = 'logprobs' GROUP BY ALL ORDER BY 1"
    assert rows(folder, sql) == [("judge", "shouting", TRIALS), ("judge_coherence", "*", TRIALS)]
    # At temperature 0 a random direction that changes nothing gives the baseline's reply: it is judged once.
    assert len(judge.bodies) == 2 * 3 * 2
    assert (outcome.judge.calls, outcome.judge.cached) == (12, 2 * TRIALS - 12)
    views_show_the_judge_beside_the_lexical_metric(folder)

    # The run keeps its judge, and never the key.
    assert set(judge.keys) == {"Bearer sk-very-secret"}
    ((definition,),) = rows(folder, "SELECT definition FROM runs")
    assert JudgeConfig.model_validate(json.loads(definition)["judge"]) == config
    assert b"sk-very-secret" not in (folder / "r.duckdb").read_bytes()

    # Another judge replaces the scores; the first one's answers are kept, and cost nothing.
    store = ResultStore(folder / "r.duckdb")
    judge.behave = lambda *_: completion("50")
    asyncio.run(rescore(store, "latest", judge.config(model="other")))
    assert rows(folder, "SELECT DISTINCT value FROM scores WHERE name LIKE 'judge%'") == [(50.0,)]
    asked = len(judge.bodies)
    again = sweep(folder, judge, config=config)
    assert (again.status, again.judge.calls, len(judge.bodies)) == ("ok", 0, asked)
    assert rows(folder, "SELECT DISTINCT round(value, 3) FROM scores WHERE name = 'judge' ORDER BY 1") == [
        (10.0,),
        (90.0,),
    ]


def views_show_the_judge_beside_the_lexical_metric(folder):
    sql = (
        "SELECT measure, n, round(baseline, 3), round(steered, 3), round(delta, 3), sd < 0.001, round(ci_low, 3), "
        "n_controls, effect, verdict, round(judge_coherence, 3), n_pending FROM cell_summary "
        "WHERE coefficient = 1 AND measure LIKE 'judge%' ORDER BY 1"
    )
    assert rows(folder, sql) == [
        ("judge", 3, 10.0, 90.0, 80.0, True, 80.0, 2, True, "effect", 90.0, 0),
        ("judge_coherence", 3, 10.0, 90.0, 80.0, True, 80.0, 2, True, "effect", 90.0, 0),
    ]
    assert rows(folder, "SELECT measure FROM best_coherent") == [("lexical",)]
    assert rows(folder, "SELECT round(delta, 3), verdict FROM best_judged_at(75)") == [(80.0, "effect")]


FAULTS = {
    "time-out": lambda *_: Fault(body=b"{}", delay=0.6),
    "garbage": lambda *_: Fault(body=b"\x00\xffgarbage"),
    "no number": lambda *_: completion("What a lovely day"),
    "429": lambda *_: Fault(429, b"later", headers={"Retry-After": "0"}),
    "500": lambda *_: Fault(500, b"on fire"),
    "truncated JSON": lambda *_: Fault(body=b'{"choices": [{"message"'),
}


def test_a_judge_that_fails_leaves_scores_pending_until_a_sweep_or_rescore_completes_them(folder, judge):
    faults = list(FAULTS.values())
    judge.behave = lambda number, body: faults[number % len(faults)](number, body)
    outcome = sweep(folder, judge, config=judge.config(timeout=0.2, retries=1, give_up_after=1000))
    assert (outcome.status, outcome.trials_failed, outcome.unscored) == ("partial", 0, TRIALS)
    assert outcome.judge_pending == pending(folder) == 2 * TRIALS
    assert sum(count for _, count in outcome.errors) == 2 * TRIALS
    assert rows(folder, "SELECT count(*) FROM scores WHERE mode = 'pending' AND value IS NOT NULL") == [(0,)]
    assert rows(folder, "SELECT count(*) FROM pending_scores WHERE error IS NOT NULL") == [(2 * TRIALS,)]
    assert rows(folder, "SELECT DISTINCT measure FROM cell_summary ORDER BY 1") == [("lexical",), ("projection",)]
    assert rows(folder, "SELECT status FROM runs") == [("partial",)]

    # The next sweep takes them up; where one prompt still fails, the others are there.
    judge.behave = lambda number, body: (
        Fault(400, b"no") if QUESTIONS[1].upper() in rated_reply(body) else honest(number, body)
    )
    service = MemoryService()
    second = sweep(folder, judge, service)
    n = 2 * 2  # trait and coherence of one prompt, at two coefficients
    assert (service.chats, second.status, second.judge_pending, pending(folder)) == ([], "partial", n, n)
    assert rows(folder, "SELECT DISTINCT n, n_pending FROM cell_summary WHERE measure = 'judge'") == [(2, 2)]

    # `rescore` asks no service.
    judge.behave = honest
    done = asyncio.run(rescore(ResultStore(folder / "r.duckdb"), "latest"))
    assert (done.run_id, done.status, done.missing, done.pending) == (second.run_id, "ok", n, 0)
    assert pending(folder) == 0
    assert rows(folder, "SELECT DISTINCT mode FROM scores WHERE name LIKE 'judge%'") == [("logprobs",)]
    assert rows(folder, "SELECT status FROM runs ORDER BY started_at") == [("partial",), ("ok",)]


def test_a_spent_budget_leaves_the_rest_pending(folder, judge):
    outcome = sweep(folder, judge, config=judge.config(max_calls=5, concurrency=1))
    assert (outcome.status, len(judge.bodies), outcome.judge.calls) == ("partial", 5, 5)
    assert any("max_calls" in message for message, _ in outcome.errors)
    assert 0 < outcome.judge_pending == pending(folder)
    done = asyncio.run(rescore(ResultStore(folder / "r.duckdb"), outcome.run_id[:6], judge.config()))
    assert (done.status, len(judge.bodies)) == ("ok", 12)


def test_a_judge_that_is_gone_does_not_hold_the_sweep_up(folder, judge):
    judge.behave = FAULTS["time-out"]
    began = time.monotonic()
    outcome = sweep(folder, judge, config=judge.config(timeout=0.2, retries=0, concurrency=2, give_up_after=4))
    assert outcome.judge_pending == 2 * TRIALS
    assert len(judge.bodies) <= 6
    assert time.monotonic() - began < 6


def test_a_slow_judge_does_not_slow_generation(folder, judge):
    """All replies are stored while the judge is still at its first answers."""
    judge.delay = 0.12
    generated_at = []

    def look(progress):
        if progress.trials_done == TRIALS and not generated_at:
            generated_at.append(len(judge.bodies) - judge.at_once)

    outcome = sweep(folder, judge, MemoryService(delay=0.01), judge.config(concurrency=1), look)
    assert outcome.status == "ok"
    assert generated_at[0] <= 4
    assert len(judge.bodies) == 12


def test_an_empty_reply_is_not_judged(folder, judge):
    assert sweep(folder, judge, Silent()).status == "ok"
    sql = (
        "SELECT DISTINCT name, value, mode FROM scores JOIN trials USING (trial_id) "
        "WHERE text = '' AND name LIKE 'judge%' ORDER BY 1"
    )
    assert rows(folder, sql) == [("judge", None, "computed"), ("judge_coherence", 0.0, "computed")]


def test_the_command_ends_with_exit_code_3_says_what_is_missing_and_rescore_ends_with_0(
    folder, judge, monkeypatch, capsys
):
    """Options go before the experiment's judge."""
    monkeypatch.chdir(folder)
    cli = runner(monkeypatch, capsys)
    (folder / "experiment.toml").write_text(
        'name = "x"\ntraits = ["shouting"]\ndatasets = "datasets"\ncoefficients = [1.0]\nlayers = [1]\nn_prompts = 2\n'
        '[control]\nrandom_directions = 1\n[judge]\nurl = "http://127.0.0.1:9"\nmodel = "nobody"\nretries = 0\n'
    )
    options = ["--judge-url", judge.url, "--judge-model", "j", "--judge-max-calls", "100"]
    assert json.loads(cli("sweep", "experiment.toml", "--dry-run", "--json")[1])["judge_scores"] == 12
    assert json.loads(cli("sweep", "experiment.toml", "--dry-run", "--json", "--no-judge")[1])["judge_scores"] == 0
    assert cli("sweep", "experiment.toml", "--dry-run", "--judge-scale", "thumbs")[0] == 2

    judge.behave = FAULTS["500"]
    with on_a_port(MemoryService().answer) as url:
        code, stdout, stderr = cli("sweep", "experiment.toml", "--db", "r.duckdb", "--url", url, *options)
    assert code == 3
    assert "12 scores of the judge are pending: trait-client rescore " in stdout
    assert "on fire" in stderr
    assert cli("rescore", "latest", "--db", "r.duckdb")[0] == 3
    judge.behave = honest
    code, stdout, _ = cli("rescore", "latest", "--db", "r.duckdb", "--json")
    document = json.loads(stdout)
    assert (code, document["missing"], document["pending"], document["judge"]["calls"]) == (0, 12, 0, 8)
    assert cli("rescore", "nosuchrun", "--db", "r.duckdb")[0] == 2


def test_a_run_without_a_judge_is_judged_by_the_one_that_is_given(folder, judge, monkeypatch, capsys):
    sweep(folder, None)
    monkeypatch.chdir(folder)
    cli = runner(monkeypatch, capsys)
    assert cli("rescore", "latest", "--db", "r.duckdb")[0] == 2
    options = ["--judge-url", judge.url, "--judge-model", "j"]
    code, _, stderr = cli("rescore", "latest", "--db", "r.duckdb", *options)
    assert code == 2
    assert "--datasets" in stderr
    assert cli("rescore", "latest", "--db", "r.duckdb", "--datasets", "datasets", *options)[0] == 0
    assert rows(folder, "SELECT DISTINCT round(delta, 3) FROM cell_summary WHERE measure = 'judge'") == [(80.0,)]


@pytest.mark.parametrize("command", [["sweep"], ["rescore"], ["judge", "agreement"]])
def test_every_command_that_judges_offers_the_same_options(monkeypatch, capsys, command):
    monkeypatch.setenv("COLUMNS", "120")
    code, said, _ = runner(monkeypatch, capsys)(*command, "--help")
    assert code == 0
    flags = ["", "-url", "-model", "-key-env", "-scale", "-concurrency", "-max-calls", "-max-tokens"]
    assert [flag for flag in flags if f"│ --judge{flag} " not in said] == []
