"""Fingerprints: means of parts on each direction, by SQL and by `trait-client fingerprint`."""

import json

import pytest
from cli_harness import Run, runner
from fake_service import COMPLETIONS, STREAM_NORM, FakeService
from fake_text import projection
from loopback import on_a_port
from trait_client.prompt_sets.directions import Direction, passes
from trait_client.results import ResultStore
from trait_core.schema import LayerEvidence
from vector_fixtures import made_vector

CENTRES = {"kind": 0.5, "rude": 3.0, "flat": 0.0}
SEPARATIONS = {"kind": 2.0, "rude": 10.0, "flat": 0.0}
SET = {
    "prompts": [
        {"id": 1, "text": "one two three", "note": "counts", "response": "four five six"},
        {"id": 2, "text": "go", "note": "short"},
    ]
}
WORDS = ["<user>", "one", "two", "three", "<assistant>", "four", "five", "six"]


@pytest.fixture
def service() -> FakeService:
    """Three vectors on layers 1 and 2, of which the second is their choice; one of them has no separation."""
    shape = {"n_layers": 6, "d_model": 4, "model": "smol"}
    vectors = [
        made_vector(
            (1, 2),
            None,
            LayerEvidence(separation=SEPARATIONS[trait], centre=CENTRES[trait], residual_norm=10.0),
            trait=trait,
            **shape,
        )
        for trait in CENTRES
    ]
    return FakeService(*vectors, **shape)


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Run:
    """Run the command as from a shell: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "s.json").write_text(json.dumps(SET))
    return runner(monkeypatch, capsys)


def mean(service, words, positions, name, layer=2) -> float:
    """Mean projection at these positions, minus the centre."""
    ids, sha256 = service.ids(words), service.entry(name).sha256
    return sum(projection(ids, p, sha256, layer) for p in positions) / len(positions) - CENTRES[name]


def test_the_view_has_a_mean_for_each_part_and_direction(cli, tmp_path, service):
    """Without the first four positions; a reply's token counts with the position that produced it."""
    with on_a_port(service.answer) as url:
        options = ("--prompts", "s.json", "--vector", "*", "--cosine", "--db", "r.duckdb", "--url", url)
        assert cli("project", *options)[0] == 0
    got = ResultStore(tmp_path / "r.duckdb").query(
        "SELECT prompt_id, prompt_set, metadata->>'note', part, n, vector, layer, projection, separations, cosine "
        "FROM fingerprints ORDER BY part, vector"
    )[1]
    want = [
        ("s/1", "s", "counts", part, len(positions), name, 2, mean(service, WORDS, positions, name))
        for part, positions in (("prompt", [4]), ("response", [4, 5, 6]))
        for name in sorted(CENTRES)
    ]
    assert [row[:7] for row in got] == [row[:7] for row in want]
    for (*_, name, _, value, separations, cosine), (*_, wanted) in zip(got, want, strict=True):
        assert value == pytest.approx(wanted, rel=1e-6)
        assert separations == (pytest.approx(wanted / SEPARATIONS[name], rel=1e-6) if SEPARATIONS[name] else None)
        assert cosine == pytest.approx((wanted + CENTRES[name]) / STREAM_NORM, rel=1e-5)


def test_without_cosines_the_view_has_none(cli, tmp_path, service):
    with on_a_port(service.answer) as url:
        cli("project", "--prompts", "s.json", "--vector", "kind", "--db", "r.duckdb", "--url", url)
    assert ResultStore(tmp_path / "r.duckdb").query("SELECT DISTINCT cosine FROM fingerprints")[1] == [(None,)]


def test_the_command_prints_the_nearest_traits_of_a_text_first(cli, tmp_path, service):
    """It keeps nothing; a text is read as it is."""
    text = "a b c d e"
    words = ["<bos>", *text.split()]
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli("fingerprint", "--text", text, "--json", "--url", url)
        assert (code, stderr) == (0, "")
        places = json.loads(stdout)["places"]
        printed = cli("fingerprint", "--text", text, "--top", "1", "--url", url)[1]
    wanted = {name: mean(service, words, [4, 5], name) for name in CENTRES}
    assert {place["vector"]: place["projection"] for place in places} == pytest.approx(wanted)
    separations = {place["vector"]: place["separations"] for place in places}
    assert separations["kind"] == pytest.approx(wanted["kind"] / 2)
    best = max(("kind", "rude"), key=lambda name: wanted[name] / SEPARATIONS[name])
    assert [place["vector"] for place in places][::2] == [best, "flat"]
    assert printed.splitlines()[0] == "a b c d e (prompt, 2 tokens)"
    assert [line.split()[0] for line in printed.splitlines()[1:]] == ["vector", best]
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_a_prompt_set_has_the_nearest_traits_of_each_part(cli, tmp_path, service):
    """And another run with the same database reads nothing again."""
    options = (
        "fingerprint",
        "--prompts",
        "s.json",
        "--vector",
        "kind",
        "--vector",
        "ru*",
        "--layer",
        "1",
        "--db",
        "f.duckdb",
    )
    with on_a_port(service.answer) as url:
        code, stdout, stderr = cli(*options, "--url", url)
        assert (code, stderr) == (
            0,
            "note: 's/2' has no more than four tokens, and the first four positions are left out\n",
        )
        assert [line for line in stdout.splitlines() if line.startswith("s/")] == [
            "s/1 (prompt, 1 token)", "s/1 (response, 3 tokens)",
        ]  # fmt: skip
        service.requests[COMPLETIONS].clear()
        cli(*options, "--url", url)
    assert service.requests[COMPLETIONS] == []
    assert (tmp_path / "f.duckdb").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --text or --prompts"),
        (["--text", "a", "--prompts", "s.json"], "give either --text or --prompts"),
        (["--text", " "], "is empty"),
        (["--text", "a b"], "'a b' has no more than four tokens"),
        (["--text", "a b c d e", "--vector", "x*"], "no vector fits 'x*'"),
    ],
)
def test_what_cannot_be_placed_is_refused(cli, service, options, message):
    with on_a_port(service.answer) as url:
        code, _, stderr = cli("fingerprint", *options, "--url", url)
    assert code == 2
    assert message in stderr


def test_passes_hold_every_direction_once_and_are_products_of_vectors_and_layers():
    directions = [Direction(sha256, layer) for sha256 in "abcde" for layer in (3, 7, 9)]
    for limit in (1, 2, 3, 7, 15, 32):
        parts = passes(directions, [3, 7, 9], limit)
        assert sorted(each for part in parts for each in part) == directions
        for part in parts:
            assert len(part) <= limit
            assert len({each.sha256 for each in part}) * len({each.layer for each in part}) == len(part)
    own = [Direction("a", 3), Direction("b", 9), Direction("c", 1)]
    assert passes(own, None, 2) == [own[:2], own[2:]]
