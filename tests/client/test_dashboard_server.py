"""The dashboard's server: who may ask, what a query may do, and that a sweep can write meanwhile."""

import json
import subprocess
import sys
import time

import duckdb
import httpx
import pytest
from dashboard_fixtures import build, dashboard
from trait_client.cli.dashboard import own_hosts
from trait_client.dashboard.data.readings import shown
from trait_client.results import ResultStore
from trait_client.results.rows import RunCellRow
from trait_core.errors import InvalidRequestError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return build(tmp_path_factory.mktemp("server") / "known.duckdb", n_readings=60)


@pytest.fixture(scope="module")
def url(store):
    with dashboard(store.path) as address:
        yield address


def ask(url, statement):
    return httpx.post(f"{url}/api/sql", json={"sql": statement}, timeout=40)


# ------------------------------------------------------------------------------------------------------ who may ask


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},  # DNS rebinding
        {"host": "evil.example:8600"},
        {"host": "127.0.0.1"},  # another port's page
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a link to the answers instead of the page
    ],
)
def test_requests_of_other_sites_and_under_other_names_are_refused(url, headers):
    answer = httpx.get(f"{url}/api/overview", headers=headers)
    assert answer.status_code == 403
    assert "known" not in answer.text


def test_the_own_page_and_a_link_to_it_are_answered(url):
    assert httpx.get(f"{url}/api/overview", headers={"origin": url, "sec-fetch-site": "same-origin"}).status_code == 200
    linked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert httpx.get(url, headers=linked).status_code == 200


def test_a_form_of_another_site_cannot_run_sql(url):
    """A form needs no permission of the browser, but cannot send JSON."""
    answer = httpx.post(f"{url}/api/sql", data={"sql": "SELECT 1"})
    assert answer.status_code == 400


def test_every_answer_has_the_security_headers(url):
    for path in ("/", "/static/js/app.js", "/api/overview", "/nothing"):
        headers = httpx.get(url + path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/static/../app.py", "/static/%2e%2e/app.py", "/static/js"])
def test_nothing_but_the_pages_files_is_served(url, path):
    assert httpx.get(url + path).status_code in {404, 405}


def test_it_listens_on_loopback_and_accepts_its_names():
    assert own_hosts("127.0.0.1", 8600, []) == ["127.0.0.1:8600", "localhost:8600", "[::1]:8600"]
    assert own_hosts("10.1.2.3", 8600, ["Lab.example:80"])[0] == "10.1.2.3:8600"
    assert "lab.example:80" in own_hosts("0.0.0.0", 8600, ["Lab.example:80"])
    with pytest.raises(InvalidRequestError, match="not an IP address"):
        own_hosts("lab", 8600, [])


# ------------------------------------------------------------------------------------------------------ SQL


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM trials",
        "UPDATE runs SET status = 'ok'",
        "DROP TABLE trials",
        "CREATE TABLE x AS SELECT 1",
        "CREATE TEMP TABLE x AS SELECT 1",
        "INSERT INTO prompts VALUES ('a', 'b')",
        "SELECT 1; DROP TABLE trials",
        "COPY trials TO '/tmp/trials.csv'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "EXPORT DATABASE '/tmp/out'",
        "ATTACH '/tmp/other.duckdb'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "CHECKPOINT",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "SELECT * FROM answer",  # a variable of the server's process
        "",
    ],
)
def test_statements_that_write_or_use_files_or_the_network_are_refused(url, statement):
    answer = ask(url, statement)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_refused_statements_changed_nothing(url, store):
    before = store.path.read_bytes()
    for statement in ("DROP TABLE trials", "DELETE FROM scores", "UPDATE runs SET status = 'ok'"):
        ask(url, statement)
    assert store.path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    ["SELECT 1 AS a", "WITH x AS (SELECT 1 AS a) FROM x", "DESCRIBE trials", "SUMMARIZE scores", "EXPLAIN SELECT 1"],
)
def test_statements_that_read_are_answered(url, statement):
    answer = ask(url, statement)
    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"]


def test_an_answer_beyond_the_row_limit_is_marked_as_truncated(url):
    answer = ask(url, "SELECT range AS i FROM range(10_001)").json()
    assert (len(answer["rows"]), answer["truncated"]) == (10_000, True)
    assert ask(url, "SELECT range AS i FROM range(10_000)").json()["truncated"] is False


def test_a_query_without_end_is_stopped(store):
    began = time.monotonic()
    with store.reader() as reader, pytest.raises(InvalidRequestError, match=r"more than 0\.3 s and was stopped"):
        reader.bounded("SELECT count(*) FROM range(1_000_000_000_000) a, range(1000) b", max_rows=10, max_seconds=0.3)
    assert time.monotonic() - began < 5


def test_numbers_that_json_lacks_are_null_and_huge_ones_are_text(url):
    row = ask(url, "SELECT 'nan'::DOUBLE, 9007199254740993, [1.5::DOUBLE, NULL], '<b>'").json()["rows"][0]
    assert row == [None, "9007199254740993", [1.5, None], "<b>"]


# ------------------------------------------------------------------------------------------------------ beside a sweep

WRITE = """
import sys, time
from trait_client.results import ResultStore
with ResultStore(sys.argv[1]).writer() as writer:
    run = writer.start_run("live", '{"name": "live"}', 10)
    writer.publish_snapshot()
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_a_run_is_shown_while_it_writes_and_as_stopped_after_a_kill(tmp_path):
    """The dashboard looks at the database before, and a sweep can begin to write all the same."""
    store = build(tmp_path / "live.duckdb", n_readings=3)
    with dashboard(store.path) as url:
        assert httpx.get(f"{url}/api/overview").json()["source"] == "database"
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "writing\n"
        live = httpx.get(f"{url}/api/overview", timeout=20).json()
        assert live["source"] == "snapshot"
        assert (live["runs"][0]["experiment"], live["runs"][0]["status"]) == ("live", "running")
        process.kill()
        process.wait()
        after = httpx.get(f"{url}/api/overview", timeout=20).json()
        assert (after["runs"][0]["experiment"], after["runs"][0]["status"]) == ("live", "stopped")


def test_a_missing_database_and_service_are_reported_and_no_file_is_created(tmp_path):
    with dashboard(tmp_path / "absent.duckdb") as url:
        answer = httpx.get(f"{url}/api/overview")
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "ResultsMissingError")
        service = httpx.get(f"{url}/api/service", timeout=30)
        assert (service.status_code, service.json()["error"]["type"]) == (502, "ServiceUnreachableError")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_no_results_of_this_version_says_so(tmp_path):
    """Neither a file that is no database, nor another program's, nor one of an earlier schema is an internal error."""
    (tmp_path / "junk.duckdb").write_bytes(b"no database" * 1000)
    with duckdb.connect(tmp_path / "other.duckdb") as other:
        other.execute("CREATE TABLE t (a INTEGER)")
    old = build(tmp_path / "old.duckdb", n_readings=1).path
    with duckdb.connect(old) as database:
        database.execute("DROP TABLE schema_version; CREATE TABLE migrations (number INTEGER)")
    reviewed = build(tmp_path / "views.duckdb", n_readings=1).path
    with duckdb.connect(reviewed) as database:
        database.execute("UPDATE schema_version SET views = 'another'")
    reasons = {
        "junk": "not a valid DuckDB",
        "other": "without results",
        "old": "a version before 0.2",
        "views": "the next sweep into it",
    }
    for name, reason in reasons.items():
        with dashboard(tmp_path / f"{name}.duckdb") as url:
            for path in ("overview", "settings", "vectors", "sets"):
                answer = httpx.get(f"{url}/api/{path}", timeout=20)
                assert (answer.status_code, answer.json()["error"]["type"]) == (503, "ResultsError")
                assert reason in answer.json()["error"]["message"]


def test_a_setting_belongs_to_every_run_that_asked_for_it(tmp_path):
    """A second run of the same cells stores no trial, and has its settings all the same; other settings are not its own."""
    store = build(tmp_path / "twice.duckdb", n_readings=1)
    with store.writer() as writer:
        ((first,),) = writer.query("SELECT run_id FROM runs WHERE experiment = 'known'")
        second = writer.start_run("again", '{"name": "known"}', 4)
        writer.write([RunCellRow(second, "warmth-probe-9-1.5-float32")])
    with dashboard(store.path) as url:
        rows = httpx.get(f"{url}/api/settings", timeout=20).json()
    runs = {row["setting_id"]: sorted(row["runs"]) for row in rows}
    assert runs.pop("warmth-probe-9-1.5-float32") == sorted([first, second])
    assert len(runs) > 20
    assert set(map(tuple, runs.values())) == {(first,)}


def test_answers_follow_the_database(tmp_path):
    store = build(tmp_path / "grows.duckdb", n_readings=3)
    with dashboard(store.path) as url:
        assert httpx.get(f"{url}/api/sets").json()[0]["n"] == 3
        with ResultStore(store.path).writer() as writer:
            writer.query("UPDATE readings SET outcome = 'late'")
        assert httpx.get(f"{url}/api/sets").json()[0]["outcomes"] == [{"outcome": "late", "n": 3}]


@pytest.mark.parametrize(
    ("turn", "text"),
    [
        ({"role": "user", "content": "Hi"}, "Hi"),
        (
            {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
            "Hello\nthere",
        ),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}, '[{"id": "c"}]'),
        ({"role": "assistant", "content": None}, ""),
    ],
)
def test_every_message_of_a_prompt_set_is_shown_as_a_text(turn, text):
    assert shown(turn) == {"role": turn["role"], "content": text}


def test_prompts_are_filtered_by_their_further_fields(tmp_path):
    """The set names the fields and values that filter it; a field of one value for all is none."""
    store = build(tmp_path / "fields.duckdb", n_readings=12)
    with dashboard(store.path) as url:
        fields = httpx.get(f"{url}/api/sets", timeout=20).json()[0]["fields"]
        assert set(fields) == {"note", "tags"}
        assert fields["tags"] == [["all", 12], ["tag0", 3], ["tag1", 3], ["tag2", 3], ["tag3", 3]]

        def found(**where):
            params = {"set": "chats.jsonl", "where": json.dumps(where)}
            answer = httpx.get(f"{url}/api/readings", params=params, timeout=20).json()
            return [int(row["prompt_id"][1:]) for row in answer["rows"]]

        assert found(note="odd") == [1, 3, 5, 7, 9, 11]
        assert found(note="odd", tags="tag3") == [3, 7, 11]
        assert found(note="neither") == []
        for wrong in ("{", "[1]", '{"note": 1}'):
            answer = httpx.get(f"{url}/api/readings", params={"set": "chats.jsonl", "where": wrong}, timeout=20)
            assert answer.status_code == 400
            assert "is not a JSON object of texts" in answer.json()["error"]["message"]


def test_the_heat_map_has_a_value_for_each_prompt_or_group_and_direction(tmp_path):
    """In separations, residual units and as a cosine where one is stored."""
    store = build(tmp_path / "map.duckdb", n_readings=12)
    with dashboard(store.path) as url:

        def asked(**params):
            return httpx.get(f"{url}/api/fingerprints", params={"set": "chats.jsonl"} | params, timeout=20).json()

        first, second, third, *_ = asked()["rows"]
        assert (first["label"], first["cells"]) == ("q00000", [[0.5, 10.0, 0.1, 9], [0.05, 1.0, None, 9]])
        assert second["cells"] == third["cells"] == [[-0.5, -10.0, -0.1, 9], [-0.05, -1.0, None, 9]]
        prompt = asked(part="prompt")["rows"][0]["cells"][0]
        assert prompt == [0.125, 2.5, 0.025, 4]  # without the attention sink and the three positions after it
        outcomes = asked(by="outcome")["rows"]
        assert [(row["label"], row["n"], row["cells"][0][0]) for row in outcomes] == [
            ("failure", 4, -0.5),
            ("success", 4, 0.5),
        ]
        tags = asked(by="tags", where='{"tags": "tag0"}')["rows"]
        assert [(row["label"], row["n"]) for row in tags] == [("all", 3), ("tag0", 3)]
        assert tags[0]["cells"][0][0] == pytest.approx((0.5 - 0.5 - 0.5) / 3, abs=1e-4)
        assert "part 'middle' is not prompt or response" in asked(part="middle")["error"]["message"]
        assert "field 'colour' is not one of outcome, note, tags" in asked(by="colour")["error"]["message"]
