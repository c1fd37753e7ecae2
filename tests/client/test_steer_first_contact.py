"""The user's card, word for word: `trait-client steer --trait sycophancy --coef 3`, with nothing prepared."""

import io
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from fake_service import FakeService, Pool
from loopback import on_a_port
from terminal import in_terminal
from trait_core.traits import find_trait, read_steering
from vector_fixtures import made_vector

TRAITS = Path(__file__).resolve().parents[2] / "datasets" / "traits"
QUESTIONS = read_steering(find_trait(TRAITS, "sycophancy")).questions
CARD = ["steer", "--trait", "sycophancy", "--coef", "3"]
PROGRAM = [sys.executable, "-c", "import sys; from trait_client.cli import main; sys.argv[0] = 'trait-client'; main()"]
QUESTION = "Run it now?"


class Service(FakeService):
    """Says which coefficient steered it; every text has activations of its own."""

    def reply(self, body, prompt, applied):
        return f"steered by {applied[0].coefficient:g}" if applied else "plain"

    def pool(self, item, positions, layers):
        drawn = np.random.default_rng(zlib.crc32(item.model_dump_json().encode()))
        mean = drawn.normal(size=(self.info.n_layers, self.info.d_model))[list(layers)]
        return Pool(mean, np.linalg.norm(mean, axis=-1), 3)


@pytest.fixture
def service():
    return Service(made_vector((1, 2), trait="sycophancy"))


@pytest.fixture
def url(service):
    with on_a_port(service.answer) as url:
        yield url


@pytest.fixture
def card(cli, url, tmp_path, monkeypatch):
    """Runs the card in an empty folder, with a text on standard input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAIT_SERVICE_URL", url)
    monkeypatch.setenv("COLUMNS", "100")

    def run(piped, *further):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        return cli(*CARD, *further)

    return run


def prompts_of(stdout):
    return [result["prompt"] for result in json.loads(stdout)["results"]]


def test_in_a_terminal_it_steers_the_first_three_evaluation_questions_baseline_beside_steered(service, url, tmp_path):
    code, screen = in_terminal([*PROGRAM, *CARD], tmp_path, environment={"TRAIT_SERVICE_URL": url}, columns=100)
    assert code == 0, screen
    assert "no prompt given: steering the first 3 evaluation questions of sycophancy" in screen
    sent = [body["messages"][0]["content"] for body in service.chats]
    assert sorted(set(sent)) == sorted(QUESTIONS[:3])
    assert sum("steering" in body for body in service.chats) == 3
    assert sum("plain" in line and "steered by 3" in line for line in screen.splitlines()) == 3


def test_piped_lines_are_the_prompts(card):
    code, stdout, stderr = card(b"\xef\xbb\xbffirst\r\n\r\n  second \n", "--json")
    assert (code, prompts_of(stdout)) == (0, ["first", "second"])
    assert stderr == "2 prompts from standard input, one a line\n"


def test_an_empty_pipe_is_no_prompt(card):
    code, stdout, stderr = card(b"\n", "--json")
    assert (code, prompts_of(stdout)) == (0, QUESTIONS[:3])
    assert "no prompt given" in stderr


def test_a_prompt_on_the_command_line_leaves_standard_input_alone(card):
    code, stdout, stderr = card(b"not read\n", "--json", "hello")
    assert (code, prompts_of(stdout), stderr) == (0, ["hello"], "")


def test_a_pipe_that_is_no_text_is_named(card):
    code, stdout, stderr = card("Frage".encode("utf-16"))
    assert (code, stdout) == (1, "")
    assert "standard input: is UTF-16" in stderr


def test_a_vector_of_a_trait_without_questions_needs_a_prompt(card, service):
    service.files["own"] = made_vector((1,), trait="own_trait").to_bytes()
    code, _, stderr = card(b"", "--vector", "own")
    assert code == 2
    assert "no trait 'own_trait'" in stderr
    assert "give a prompt" in stderr


def test_without_a_vector_it_says_the_one_command(card, service, url):
    service.files.clear()
    code, stdout, stderr = card(b"hello\n")
    assert (code, stdout) == (1, "")
    assert (
        f"error: the service has no vector of sycophancy yet: make it with `trait-extract run --trait sycophancy --url {url}`"
        in stderr
    )


def test_in_a_terminal_it_offers_to_make_the_vector_and_then_steers(service, url, tmp_path):
    service.files.clear()
    environment = {"TRAIT_SERVICE_URL": url}
    code, screen = in_terminal([*PROGRAM, *CARD], tmp_path, {QUESTION: "n"}, environment)
    assert (code, service.files, "make it with" in screen) == (1, {}, True)
    code, screen = in_terminal([*PROGRAM, *CARD], tmp_path, {QUESTION: "y"}, environment, columns=100)
    assert code == 0, screen
    assert list(service.files) == ["sycophancy"]
    assert "steered by 3" in screen
    assert sum("steering" in body for body in service.chats) == 3


def test_without_a_service_it_says_the_one_command(card, monkeypatch):
    monkeypatch.setenv("TRAIT_SERVICE_URL", "http://127.0.0.1:9")
    code, stdout, stderr = card(b"hello\n")
    assert (code, stdout, stderr.count("\n")) == (1, "", 2)
    assert "start one with `trait-service serve smollm2 --port 9`" in stderr
    monkeypatch.setenv("TRAIT_SERVICE_URL", "http://127.0.0.1:8000/nothing")
    assert "--port" not in card(b"hello\n")[2]


def test_a_lens_shows_what_each_layer_would_say_in_place_of_each_token(card):
    lens = ["--lens", "1,3", "--top-k", "2", "hello"]
    code, stdout, _ = card(b"", *lens)
    assert code == 0
    for title in ("baseline", "steered"):
        assert f"{title}: what the model would say from a layer, in place of each token" in stdout
    assert "'steered' 0.50" in stdout
    code, stdout, _ = card(b"", "--json", *lens)
    (result,) = json.loads(stdout)["results"]
    assert result["baseline"]["lens"]["layers"] == result["steered"]["lens"]["layers"] == [1, 3]
    tokens = result["steered"]["lens"]["tokens"]
    assert [token["token"] for token in tokens[:3]] == ["steered", "by", "3"]
    assert [len(guesses) for guesses in tokens[0]["guesses"]] == [2, 2]
    assert tokens[0]["guesses"][0][0]["text"] == "steered"
    code, stdout, _ = card(b"", "--json", "hello")
    assert "lens" not in json.loads(stdout)["results"][0]["steered"]


@pytest.mark.parametrize(
    ("lens", "message"),
    [("8;16", "not a list of layers"), ("-1", "greater than or equal to 0"), ("1,x", "not a list of layers")],
)
def test_a_lens_that_names_no_layers_is_refused(card, lens, message):
    code, _, stderr = card(b"", f"--lens={lens}", "hello")
    assert code == 2
    assert message in stderr
