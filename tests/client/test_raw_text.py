"""Base models and chat templates: raw text, variables of the template, and refusals before anything is sent."""

import asyncio
import json
import re
from pathlib import Path

import duckdb
import httpx
import pytest
from cli_harness import Run, runner
from fake_registry import service_info
from fake_service import ACTIVATIONS, CHATS, COMPLETIONS, FakeService
from loopback import on_a_port
from sweep_fixtures import MemoryService, experiment_of, vector_file, write_datasets
from trait_client.cli.chat import Conversation
from trait_client.http import TraitClient
from trait_client.http.template_check import require_template
from trait_client.prompt_sets import CaptureOptions, read_prompts
from trait_client.prompt_sets.manifest import CaptureIdentity
from trait_client.results import ResultStore
from trait_client.sweeps import run_sweep
from trait_core.errors import ChatTemplateError, DatasetError, InvalidRequestError

SMALL = {"coefficients": [1.0], "layers": [1], "n_prompts": 2, "control": {"random_directions": 1}}
THINKING = {"enable_thinking": False}
SWITCH = {"chat_template_variables": ["enable_thinking"]}


class Base(MemoryService):
    """A base model."""

    def __init__(self, **options):
        super().__init__(**options, has_chat_template=False, chat_template_digest=None)


class Strict(MemoryService):
    """Its template refuses system prompts, and roles that do not take turns."""

    def template(self, messages, kwargs):
        roles = [message.role for message in messages]
        if "system" in roles:
            raise InvalidRequestError("System role not supported")
        if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2):
            raise InvalidRequestError("Conversation roles must alternate user/assistant/user/assistant/...")
        return super().template(messages, kwargs)


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return runner(monkeypatch, capsys)


def sweep(folder, service, **values):
    async def go():
        async with service.client() as client:
            store = ResultStore(folder / "r.duckdb")
            return await run_sweep(experiment_of(folder, **SMALL | values), client, store)

    return asyncio.run(go())


def rows(folder, sql):
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def inputs(service):
    return [item for body in service.requests[ACTIVATIONS] for item in body["inputs"]]


def sent(service):
    return len(service.requests[CHATS]), len(service.requests[COMPLETIONS]), len(service.requests[ACTIVATIONS])


# ------------------------------------------------------------------------------------------------------------- steer


def test_steer_raw_continues_the_text_and_reads_it_back_as_raw_text(cli):
    service = Base()
    with on_a_port(service.answer) as url:
        code, out, err = cli("steer", "-t", "shouting", "-c", "1", "--raw", "The sea is", "--json", "--url", url)
    assert (code, err) == (0, "")
    assert [body["prompt"] for body in service.requests[COMPLETIONS]] == ["The sea is"] * 2
    assert service.requests[CHATS] == []
    assert [(item["text"], "messages" in item) for item in inputs(service)] == [("The sea is", False)] * 2
    (result,) = json.loads(out)["results"]
    assert result["steered"]["text"].isupper()
    assert result["projections"][0]["steered"] > result["projections"][0]["baseline"]


@pytest.mark.parametrize("command", [("steer", "-t", "shouting", "-c", "1", "Hi"), ("chat",)])
def test_a_base_model_without_raw_is_one_sentence_and_nothing_is_sent(cli, command):
    service = Base()
    with on_a_port(service.answer) as url:
        code, out, err = cli(*command, "--url", url)
    assert (code, out, sent(service)) == (2, "", (0, 0, 0))
    assert "m has no chat template" in err
    assert "trait-client steer --raw" in " ".join(err.split())


def test_variables_of_the_template_are_sent_and_the_reply_is_read_back_with_them(cli):
    service = MemoryService(chat_template_variables=["enable_thinking", "effort"])
    given = ("--template-kwargs", "enable_thinking=False", "--template-kwargs", "effort=high")
    with on_a_port(service.answer) as url:
        code, _, err = cli("steer", "-t", "shouting", "-c", "1", "Hi", *given, "--url", url)
    assert (code, err) == (0, "")
    wanted = {"enable_thinking": False, "effort": "high"}
    assert [body["chat_template_kwargs"] for body in service.requests[CHATS]] == [wanted] * 2
    assert [item["chat_template_kwargs"] for item in inputs(service)] == [wanted] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--template-kwargs", "enable_thinkng=false"), "it uses enable_thinking"),
        (("--template-kwargs", "enable_thinking"), "write enable_thinking=false"),
        (("--template-kwargs", "tools=[]"), "'tools' is set by the service"),
        (("--template-kwargs", "enable_thinking=false", "--raw"), "which --raw does not use"),
    ],
)
def test_variables_that_would_do_nothing_are_refused(cli, options, message):
    service = MemoryService(**SWITCH)
    with on_a_port(service.answer) as url:
        code, _, err = cli("steer", "-t", "shouting", "-c", "1", "Hi", *options, "--url", url)
    assert (code, sent(service)) == (2, (0, 0, 0))
    assert message in " ".join(err.split())


def test_a_service_that_does_not_know_its_variables_takes_any():
    require_template(service_info(chat_template_variables=None), {"anything": 1})
    with pytest.raises(ChatTemplateError, match="it uses no variable"):
        require_template(service_info(), {"anything": 1})


def test_a_chat_goes_on_after_an_empty_reply_though_roles_must_take_turns():
    class Silent(Strict):
        def reply(self, body, prompt, applied):
            return ""

    fake = Silent()
    with TraitClient(transport=httpx.MockTransport(fake.answer)) as client:
        conversation = Conversation(client, 4, 0.0, template_kwargs={"a": 1})
        for text in ("Hi", "Still there?"):
            assert "".join(delta.text for delta in conversation.reply(text)) == ""
    assert [turn.role for turn in conversation.turns] == ["user", "assistant"] * 2
    assert [body["chat_template_kwargs"] for body in fake.chats] == [{"a": 1}] * 2


# ------------------------------------------------------------------------------------------------------------ sweeps


def test_a_raw_sweep_sends_completions_and_is_scored_as_any_other(folder):
    service = Base()
    outcome = sweep(folder, service, raw=True)
    assert (outcome.status, outcome.unscored, len(service.requests[CHATS])) == ("ok", 0, 0)
    assert {body["prompt"] for body in service.requests[COMPLETIONS]} == {"Question number 0?", "Question number 1?"}
    assert {item["text"] for item in inputs(service)} == {"Question number 0?", "Question number 1?", "\n"}
    assert rows(folder, "SELECT DISTINCT raw, chat_template_kwargs FROM cells") == [(True, None)]
    ((delta, raw),) = rows(folder, "SELECT delta, raw FROM cell_summary WHERE measure = 'lexical'")
    assert (delta > 50, raw) == (True, True)


def test_raw_text_and_variables_make_other_cells_than_a_plain_chat(folder):
    plain, raw, without = MemoryService(), MemoryService(), MemoryService(**SWITCH)
    sweep(folder, plain)
    sweep(folder, raw, raw=True)
    sweep(folder, without, chat_template_kwargs=THINKING)
    assert len(plain.requests[CHATS]) == len(raw.requests[COMPLETIONS]) == len(without.requests[CHATS]) > 0
    assert {json.dumps(body["chat_template_kwargs"]) for body in without.requests[CHATS]} == {json.dumps(THINKING)}
    assert all(item["chat_template_kwargs"] == THINKING for item in inputs(without))
    found = rows(folder, "SELECT DISTINCT raw, chat_template_kwargs FROM cells ORDER BY ALL")
    assert found == [(False, '{"enable_thinking": false}'), (False, None), (True, None)]
    assert rows(folder, "SELECT count(*) FROM trials") == [(3 * 6,)]


@pytest.mark.parametrize(
    ("service", "values", "message"),
    [
        (Base, {}, "raw = true in an experiment"),
        (Strict, {"system": "Be brief."}, "refuses messages of system, user: System role not supported"),
    ],
)
def test_a_sweep_that_the_template_refuses_sends_nothing_and_makes_no_database(folder, service, values, message):
    fake = service()
    with pytest.raises(ChatTemplateError, match=message):
        sweep(folder, fake, **values)
    assert (sent(fake), (folder / "r.duckdb").exists()) == ((0, 0, 0), False)


def test_raw_goes_with_no_system_prompt_and_no_variables(folder):
    for values in ({"system": "Be brief."}, {"chat_template_kwargs": THINKING}):
        with pytest.raises(InvalidRequestError, match="goes with the chat template, which raw = true does not use"):
            experiment_of(folder, raw=True, **values)


def test_a_database_from_before_raw_text_is_continued(folder):
    sweep(folder, MemoryService())
    (folder / "r.duckdb").rename(folder / "now.duckdb")
    tables = (Path(__file__).parent.parent / "data" / "results_version_9.sql").read_text(encoding="utf-8")
    tables = re.sub(r",( +-- [^\n]*)?\n +(raw|chat_template_kwargs) +(BOOLEAN|JSON)", "", tables)
    tables = re.sub(r",\n +chat_template_kwargs +JSON", "", tables)
    with duckdb.connect(folder / "r.duckdb") as old:
        old.execute(tables)
        assert "raw" not in {name for name, *_ in old.execute("DESCRIBE cells").fetchall()}
        old.execute(f"INSERT INTO schema_version VALUES (9, 'older'); ATTACH '{folder}/now.duckdb' AS now")
        for table in ("runs", "prompts", "vectors", "cells", "trials", "scores", "projections", "run_cells"):
            columns = ", ".join(name for name, *_ in old.execute(f"DESCRIBE {table}").fetchall())
            old.execute(f"INSERT INTO {table} SELECT {columns} FROM now.{table}")
    again = MemoryService()
    outcome = sweep(folder, again)
    assert (outcome.trials_run, again.chats) == (0, [])
    assert sweep(folder, MemoryService(), raw=True).status == "ok"
    assert rows(folder, "SELECT DISTINCT raw FROM cells ORDER BY 1 NULLS FIRST") == [(None,), (True,)]
    assert rows(folder, "SELECT DISTINCT raw FROM cell_summary ORDER BY 1") == [(False,), (True,)]


def test_a_search_runs_on_raw_text(cli, tmp_path):
    write_datasets(tmp_path / "datasets")
    service = Base()
    with on_a_port(service.answer) as url:
        code, out, err = cli(
            "search", "-t", "shouting", "-l", "1", "--raw", "--datasets", "datasets", "--n-prompts", "2", "--random", "1",
            "--search-steps", "1", "--json", "--url", url,
        )  # fmt: skip
    assert (code, service.chats) == (0, []), err
    assert json.loads(out)["best"][0]["layer"] == 1


def test_a_dry_run_says_how_prompts_are_sent(cli, tmp_path):
    write_datasets(tmp_path / "datasets")
    lines = ['name = "x"', 'traits = ["shouting"]', 'datasets = "datasets"', "coefficients = [1.0]"]
    (tmp_path / "raw.toml").write_text("\n".join([*lines, "raw = true"]))
    (tmp_path / "off.toml").write_text("\n".join([*lines, "chat_template_kwargs = {enable_thinking = false}"]))
    assert json.loads(cli("sweep", "raw.toml", "--dry-run", "--json")[1])["grid"]["prompts are"] == ["raw text"]
    assert "enable_thinking" in cli("sweep", "off.toml", "--dry-run")[1]


# ------------------------------------------------------------------------------------------------------- prompt sets


def capture(url, *options):
    return ("capture", "--prompts", "p.txt", "--out", "c", "--positions", "prompt[-1]", "--url", url, *options)


def test_raw_lines_are_captured_as_text_and_a_base_model_needs_it(cli, tmp_path):
    (tmp_path / "p.txt").write_text("The sea is\nThe sky is\n")
    service = Base()
    with on_a_port(service.answer) as url:
        code, _, err = cli(*capture(url))
        assert (code, sent(service), "--raw" in err) == (2, (0, 0, 0), True)
        assert cli(*capture(url, "--raw"))[0] == 0
    assert [item["text"] for item in inputs(service)] == ["The sea is", "The sky is"]


def test_a_chat_cannot_be_read_as_raw_text(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    with pytest.raises(DatasetError, match=r"p.jsonl:1: messages are a chat"):
        read_prompts(tmp_path / "p.jsonl", raw=True)


def test_a_capture_of_chats_that_the_template_refuses_reads_nothing(cli, tmp_path):
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    lines = [{"prompt": "fine"}, {"messages": twice}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    service = Strict()
    with on_a_port(service.answer) as url:
        code, _, err = cli(*(each.replace("p.txt", "p.jsonl") for each in capture(url)))
    assert (code, sent(service)) == (2, (0, 0, 0))
    assert "refuses messages of user, user: Conversation roles must alternate" in " ".join(err.split())


def test_variables_are_part_of_a_captures_identity_and_older_shards_stay_valid(cli, tmp_path):
    (tmp_path / "p.txt").write_text("Hello there\n")
    service = MemoryService(**SWITCH)
    with on_a_port(service.answer) as url:
        assert cli(*capture(url))[0] == 0
        code, _, err = cli(*capture(url, "--template-kwargs", "enable_thinking=false"))
        assert (code, "chat_template_kwargs null there" in err) == (2, True)
        assert cli(*capture(url, "--template-kwargs", "enable_thinking=false", "--out", "d"))[0] == 0
    assert inputs(service)[-1]["chat_template_kwargs"] == THINKING
    prompts = read_prompts(tmp_path / "p.txt")
    identity = CaptureIdentity.of(CaptureOptions(positions=["prompt[-1]"]), prompts, service_info())
    assert identity.digest() == "a780b7a3d07152b7dad283465dbef0dd"


def test_variables_change_the_tokens_that_are_projected_and_the_reading(cli, tmp_path):
    (tmp_path / "p.txt").write_text("Hello there\n")
    service = FakeService(vector_file(), **SWITCH)
    with on_a_port(service.answer) as url:
        project = (
            "project",
            "--prompts",
            "p.txt",
            "-v",
            "shouting",
            "--max-tokens",
            "2",
            "--db",
            "r.duckdb",
            "--url",
            url,
        )
        assert cli(*project)[0] == 0
        code, _, err = cli(*project, "--template-kwargs", "enable_thinking=false")
        assert code == 0, err
    found = rows(tmp_path, "SELECT tokens, chat_template_kwargs FROM readings ORDER BY n_prompt")
    assert found == [
        (["<user>", "Hello", "there", "<assistant>", "yes", "yes"], None),
        (
            ["<enable_thinking=false>", "<user>", "Hello", "there", "<assistant>", "yes", "yes"],
            '{"enable_thinking": false}',
        ),
    ]


def test_variables_for_raw_text_alone_are_refused(cli, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"text": "The sea is"}\n')
    with on_a_port(MemoryService().answer) as url:
        options = ("--template-kwargs", "enable_thinking=false")
        code, _, err = cli(*(each.replace("p.txt", "p.jsonl") for each in capture(url, *options)))
    assert (code, "every prompt is raw text" in err) == (2, True)
