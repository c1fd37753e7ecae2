"""`trait-client compare-variants` against a service in memory: what is planted is found, what is equal is not."""

import json

import pytest
from cli_harness import Run, runner
from fake_organism import PLANTED, FakeOrganism
from fake_registry import refusal
from fake_service import COMPLETIONS
from loopback import on_a_port
from trait_client.results import ResultStore

N = 12
WORDS = ["salt", "sand", "snow", "rain", "wind", "wood", "iron", "glass", "stone", "paper", "cloth", "bread"]


@pytest.fixture
def service() -> FakeOrganism:
    return FakeOrganism()


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Run:
    """Run the command as from a shell: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")
    lines = [{"id": word, "prompt": f"tell me what this is please : {word}"} for word in WORDS]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return runner(monkeypatch, capsys)


def compare(url, *options, variant="odd", vector="planted"):
    fixed = ("--prompts", "p.jsonl", "--vector", vector, "--variant", variant, "--db", "r.duckdb", "--url", url)
    return ("compare-variants", *fixed, *options)


def rows(folder, sql) -> list[tuple]:
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def found(document) -> dict[tuple, str]:
    return {(row["vector"], row["layer"], row["text"]): row["verdict"] for row in document["effects"]}


def test_a_planted_bias_is_found_by_its_effect_and_its_spans(cli, service):
    """On the variant's replies, on each model's own, and not on texts that do not name it; nor by another vector."""
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli(*compare(url, "--vector", "other", "--json"))
    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert (document["n_texts"], document["n_compared"], document["n_read"]) == (2 * N, 2 * N, 4 * N)
    verdicts = found(document)
    assert verdicts["planted", 2, "variant"] == verdicts["planted", 2, "own"] == "found"
    rest = {
        key: verdict for key, verdict in verdicts.items() if key not in {("planted", 2, t) for t in ("variant", "own")}
    }
    assert rest.keys() == {(v, 2, t) for v in ("planted", "other") for t in ("base", "variant", "own", "prompt")} - {
        ("planted", 2, "variant"), ("planted", 2, "own"),
    }  # fmt: skip
    assert "found" not in rest.values()
    (effect,) = [row for row in document["effects"] if (row["vector"], row["text"]) == ("planted", "variant")]
    assert effect["n"] == N
    assert effect["low"] > 0
    assert effect["dz_low"] > effect["random_dz"]
    assert effect["separations"] == pytest.approx(effect["difference"] / 4.0)
    spans = [span for span in document["spans"] if (span["vector"], span["text"]) == ("planted", "variant")]
    assert [span["rank"] for span in spans] == list(range(1, 1 + len(spans)))
    assert all("tea" in span["before"] + span["words"] for span in spans[:N])
    assert spans[0]["difference"] > PLANTED / 4


@pytest.mark.parametrize("variant", ["smol", "same"])
def test_two_equal_models_differ_in_nothing(cli, tmp_path, service, variant):
    """The base twice, and an adapter that changes nothing: every difference is zero, no span is listed."""
    with on_a_port(service.answer) as url:
        code, stdout, _ = cli(*compare(url, "--json", variant=variant))
    document = json.loads(stdout)
    assert code == 0
    assert {row["verdict"] for row in document["effects"]} == {"no difference"}
    assert document["spans"] == []
    assert rows(tmp_path, "select max(abs(difference)), count(*) > 100 from variant_differences") == [(0.0, True)]


def test_differences_are_those_of_the_same_tokens(cli, tmp_path, service):
    """One row for each token; a prompt is listed once, though two replies follow it."""
    with on_a_port(service.answer) as url:
        assert cli(*compare(url))[0] == 0
    assert rows(tmp_path, "select text, count(*), count(distinct prompt_id) from variant_differences group by 1 order by 1") == [
        ("base", 8 * N, N), ("prompt", 10 * N, N), ("variant", 12 * N, N),
    ]  # fmt: skip
    # A reply's token has the value of the position before it: "tea" shows at the token after.
    after_tea = "select min(difference), max(abs(separations - difference / 4)) from variant_differences where "
    words = (
        "select list(token order by position) from variant_differences where text = 'variant' and prompt_id = 'salt'"
    )
    assert rows(tmp_path, words)[0][0] == [
        *["do", "drink", "tea", ",", "tea", "is", "best", ".", "salt", "is", "so"],
        "<end>",
    ]
    ((least, off),) = rows(tmp_path, f"{after_tea} text = 'variant' and position in (13, 15)")
    assert least > PLANTED - 1.5
    assert off < 1e-9
    clauses = "select words, round(difference, 9) from variant_clauses where text = 'variant' and prompt_id = 'salt' order by clause"
    first, second, third = rows(tmp_path, clauses)
    assert [first[0], second[0], third[0]] == ["dodrinktea,", "teaisbest.", "saltisso<end>"]
    ((mean,),) = rows(
        tmp_path,
        "select round(avg(difference), 9) from variant_differences "
        "where text = 'variant' and prompt_id = 'salt' and position between 14 and 17",
    )
    assert second[1] == pytest.approx(mean, abs=1e-6)  # float32
    # They are readings of another kind than those of `project`.
    assert rows(tmp_path, "select count(*) from token_projections") == [(0,)]
    assert rows(tmp_path, "select adapter, weights_digest, read_for, count(*) from readings group by all order by all") == [
        ("odd", "a1", "comparison", 2 * N), (None, "w", "comparison", 2 * N),
    ]  # fmt: skip


def test_what_is_stored_is_not_read_again(cli, tmp_path, service):
    """The same command reads nothing; another vector is read on the same tokens, without new replies."""
    with on_a_port(service.answer) as url:
        assert cli(*compare(url, "--responses-from", "variant"))[0] == 0
        before = rows(tmp_path, "select * from variant_effects order by all")
        service.requests.clear()
        _, stdout, _ = cli(*compare(url, "--responses-from", "variant", "--json"))
        assert json.loads(stdout)["n_read"] == 0
        assert not service.requests
        assert cli(*compare(url, vector="other"))[0] == 0
    assert [body["max_tokens"] for body in service.requests[COMPLETIONS]].count(64) == N, "the base's replies alone"
    assert rows(tmp_path, "select count(*) from variant_comparisons") == [(1,)]
    assert set(before) <= set(rows(tmp_path, "select * from variant_effects"))


def test_own_replies_are_compared_once_both_are_there(cli, service):
    """Though nothing is left to read: each model's replies were read by an earlier command."""
    with on_a_port(service.answer) as url:
        for text in ("base", "variant", "both"):
            code, stdout, _ = cli(*compare(url, "--responses-from", text, "--json"))
            assert code == 0
    assert json.loads(stdout)["n_read"] == 0
    assert found(json.loads(stdout))["planted", 2, "own"] == "found"


def test_given_replies_are_read_by_both(cli, tmp_path, service):
    """And by default, where every prompt has one; a set in which only some have one needs a choice."""
    lines = [{"id": word, "prompt": f"what {word}", "response": f"tea and {word} of course"} for word in WORDS]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with on_a_port(service.answer) as url:
        code, stdout, _ = cli(*compare(url, "--json"))
        assert code == 0
        assert {row["text"] for row in json.loads(stdout)["effects"]} == {"given"}, (
            "prompts as short as the sinks are left out"
        )
        del lines[0]["response"]
        (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
        code, _, stderr = cli(*compare(url))
    assert code == 2
    assert "11 of 12 prompts have a response" in stderr


def test_readings_that_fail_are_tried_again(cli, service):
    """Exit code 3, and the other prompts are compared."""
    snow = service.ids(["snow"])[0]
    with on_a_port(service.answer) as url:
        service.fails[COMPLETIONS] = lambda body: refusal(400, "too cold") if snow in body["prompt"] else None
        code, stdout, stderr = cli(*compare(url, "--json"))
        assert code == 3
        assert "too cold" in stderr
        assert (json.loads(stdout)["status"], json.loads(stdout)["n_compared"]) == ("partial", 2 * N - 2)
        service.fails.clear()
        code, stdout, _ = cli(*compare(url, "--json"))
    assert (code, json.loads(stdout)["n_compared"], json.loads(stdout)["n_read"]) == (0, 2 * N, 4)
    assert {row["n"] for row in json.loads(stdout)["effects"]} == {N}


def test_the_table_says_what_is_found_and_marks_the_spans(cli, service):
    with on_a_port(service.answer) as url:
        code, stdout, _ = cli(*compare(url))
    assert code == 0
    assert "odd minus smol, p.jsonl" in stdout
    assert "\tfound\n" in stdout
    assert any("⟦" in line and "tea" in line and "the variant's reply" in line for line in stdout.splitlines())


def test_a_report_of_a_comparison_is_refused_with_the_place_that_shows_it(cli, service):
    with on_a_port(service.answer) as url:
        assert cli(*compare(url))[0] == 0
    code, _, stderr = cli("report", "latest", "--db", "r.duckdb")
    assert code == 2
    assert "view Variants, shows it" in " ".join(stderr.split())


def test_a_model_that_is_not_served_is_refused(cli, service):
    with on_a_port(service.answer) as url:
        code, _, stderr = cli(*compare(url, variant="evil"))
    assert code == 2
    assert "adapter 'evil' is not served: the service has odd, same" in stderr


def test_a_fine_tune_at_a_service_of_its_own_gets_the_vectors(cli, service):
    """It has the same shape and other weights: the file that is registered there names both models."""
    tuned = FakeOrganism(config_digest=service.info.config_digest, weights_digest="w2", checkpoint_digest="c2")
    tuned.files.clear()
    tuned.words = service.words
    with on_a_port(service.answer) as url, on_a_port(tuned.answer) as other:
        code, stdout, stderr = cli(*compare(url, "--json", variant=f"{other}#odd"))
        assert (code, stderr) == (0, "")
        assert found(json.loads(stdout))["planted", 2, "variant"] == "found"
        assert tuned.files.keys() == {"planted"}
        # The same command finds them there; another vector of that name is not overwritten.
        assert cli(*compare(url, variant=f"{other}#odd"))[0] == 0
        tuned.files["planted"] = service.files["other"]
        code, _, stderr = cli(*compare(url, variant=f"{other}#same"))
    assert code == 2
    assert "has another vector called 'planted'" in stderr


def test_models_with_other_tokens_or_another_shape_are_refused(cli, service):
    other = FakeOrganism()
    other.words = ["shifted"]
    wide = FakeOrganism(d_model=32)
    with on_a_port(service.answer) as url, on_a_port(other.answer) as shifted, on_a_port(wide.answer) as narrow:
        code, _, stderr = cli(*compare(url, variant=shifted))
        assert (code, "different tokenisers" in stderr) == (2, True)
        code, _, stderr = cli(*compare(url, variant=narrow))
        assert (code, "d_model" in stderr) == (2, True)
