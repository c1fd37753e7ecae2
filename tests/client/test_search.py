"""Coefficient search: the rules of each strategy, and searches against a service whose coherence falls off a cliff."""

import asyncio
import json
import math

import pytest
from fake_service import CHATS
from hypothesis import given
from hypothesis import strategies as st
from loopback import on_a_port
from sweep_fixtures import MemoryService, experiment_of, vector_file, write_datasets
from trait_client.results import ResultStore
from trait_client.sweeps.search import SearchSettings, run_search
from trait_client.sweeps.search.ladder import Bracket, Climb
from trait_core.errors import InvalidRequestError


class Cliff(MemoryService):
    """Layer l shouts more the larger the coefficient, and stammers from `cliffs[l]` on."""

    def __init__(self, cliffs, **options):
        super().__init__(**options)
        self.cliffs = cliffs

    def reply(self, body, prompt, applied):
        text = super().reply(body, prompt, applied)
        if not text.isupper():
            return text
        (term,) = applied
        if term.coefficient >= self.cliffs[term.layer]:
            return "AH " * 20
        words = ["this", "is", "a", "calm", "and", "short", "reply", "to", "nobody", "at", "all", "indeed"]
        n = min(len(words), round(2 * term.coefficient))
        return " ".join([word.upper() for word in words[:n]] + words[n:])


def search(folder, service, settings, **values):
    async def go():
        async with service.client() as client:
            experiment = experiment_of(folder, **{"layers": [1, 2], "coefficients": [0.0]} | values)
            return await run_search(experiment, settings, client, ResultStore(folder / "r.duckdb"))

    return asyncio.run(go())


def rows(folder, sql):
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def climbed(cliff, n, **settings):
    climb, tried = Climb(SearchSettings(**settings), 2.0, 20.0), []
    for _ in range(n):
        for coefficient in climb.propose():
            tried.append(coefficient)
            climb.learn({coefficient: coefficient < cliff})
    return tried


def test_a_climb_goes_up_while_coherent_and_down_while_not():
    assert climbed(2.5, 4, momentum=0.0) == [2.0, 2.6, 2.21, 2.87]
    assert climbed(0.1, 3, momentum=0.0) == [2.0, 1.7, pytest.approx(1.445, rel=1e-2)]


def test_momentum_takes_along_what_went_the_same_way_and_nothing_of_what_went_back():
    up, turned = climbed(100.0, 3, momentum=0.5), climbed(3.0, 4, momentum=0.5)
    assert up == [2.0, 2.6, pytest.approx(2.6 * 1.3**1.5, rel=1e-2)]
    assert turned[3] == pytest.approx(turned[2] * 0.85, rel=1e-2)


def test_no_coefficient_goes_over_the_services_limit_or_is_tried_twice():
    climb = Climb(SearchSettings(up_mult=10), 2.0, 5.0)
    climb.learn({2.0: True})
    assert climb.propose() == [5.0]
    climb.learn({5.0: True})
    assert climb.propose() == []


@given(cliff=st.floats(0.05, 19.0), width=st.integers(1, 6))
def test_a_bracket_closes_in_on_the_cliff_wherever_it_is(cliff, width):
    bracket = Bracket(SearchSettings(strategy="bracket", width=width), 2.0, 20.0)
    tried = {}
    for _ in range(40):
        step = {coefficient: coefficient < cliff for coefficient in bracket.propose()}
        tried |= step
        bracket.learn(step)
    below = [coefficient for coefficient, good in tried.items() if good]
    above = [coefficient for coefficient, good in tried.items() if not good]
    assert min(above, default=20.0) / max(below) < 1.02


def test_a_wide_bracket_takes_fewer_steps_than_a_narrow_one():
    def steps(width, cliff=7.3):
        bracket, low, high = Bracket(SearchSettings(width=width), 2.0, 20.0), 0.0, math.inf
        for n in range(1, 40):
            step = {coefficient: coefficient < cliff for coefficient in bracket.propose()}
            bracket.learn(step)
            low = max([low, *(each for each, good in step.items() if good)])
            high = min([high, *(each for each, good in step.items() if not good)])
            if high / max(low, 1e-9) < 1.05:
                return n
        raise AssertionError("never")

    assert steps(6) < steps(3) < steps(1)


@pytest.mark.parametrize("strategy", ["climb", "bracket"])
def test_the_best_setting_is_the_strongest_coherent_one_of_all_layers(folder, strategy):
    settings = SearchSettings(strategy=strategy, steps=6)
    outcome = search(folder, Cliff({1: 1.9, 2: 3.0}), settings)
    (best,) = outcome.best
    assert best.layer == 2
    assert 2.2 <= best.coefficient < 3.0
    assert (best.coherence >= 75, best.verdict, best.n) == (True, "effect", 3)
    (strongest,) = rows(
        folder, "SELECT max(trait_delta) FROM trait_summary WHERE coherence >= 75 AND measure = 'lexical'"
    )[0]
    assert best.delta == strongest
    assert best.ci_low <= best.delta <= best.ci_high


def test_a_step_runs_all_layers_and_traits_in_one_batch(folder):
    write_datasets(folder / "datasets", ["crying"])
    service = Cliff(dict.fromkeys(range(4), 3.0), delay=0.05)
    service.files["crying"] = vector_file("crying", seed=2).to_bytes()
    outcome = search(folder, service, SearchSettings(steps=1), traits=["shouting", "crying"], n_prompts=2)
    assert outcome.n_trials == 2 * 2 * 2
    assert service.most_at_once[CHATS] == 8  # twice max_num_seqs
    assert {best.trait for best in outcome.best} == {"shouting", "crying"}


def test_random_directions_are_run_at_the_best_setting_alone(folder):
    search(folder, Cliff({1: 1.9, 2: 3.0}), SearchSettings(steps=4))
    found = rows(folder, "SELECT DISTINCT c.layer, c.coefficient FROM cells c WHERE kind = 'control'")
    assert found == rows(folder, "SELECT layer, coefficient FROM best_settings")


def test_what_a_sweep_has_run_already_is_not_run_again(folder):
    settings = SearchSettings(steps=3)
    search(folder, Cliff({1: 1.9, 2: 3.0}), settings)
    again = Cliff({1: 1.9, 2: 3.0})
    outcome = search(folder, again, settings)
    assert again.chats == []
    assert len(outcome.best) == 1
    assert rows(folder, "SELECT count(*) FROM searches") == [(2,)]
    assert rows(folder, "SELECT count(*) FROM best_settings") == [(1,)]


def test_a_trait_without_a_coherent_setting_is_said_to_have_none(folder):
    outcome = search(folder, Cliff({1: 0.0, 2: 0.0}), SearchSettings(steps=2))
    assert outcome.best == ()
    assert outcome.nothing == (("shouting", "mean_diff", "no setting reached a coherence of 75: lower --start"),)


def test_the_first_dose_follows_the_models_width():
    assert SearchSettings().first_dose(576) == 0.2
    assert SearchSettings().first_dose(8192) == 0.7
    assert SearchSettings(start=0.4).first_dose(8192) == 0.4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"operation": "ablate"}, "a search adds doses"),
        ({"layers": [[1, 2]]}, "one layer at a time"),
        ({"temperature": [0.0, 1.0]}, "one scope, gate, adapter, temperature"),
    ],
)
def test_what_a_search_cannot_do_is_refused(folder, values, words):
    with pytest.raises(InvalidRequestError, match=words):
        search(folder, Cliff({1: 1.0, 2: 2.0}), SearchSettings(), **values)


def test_steer_takes_what_the_search_found_and_says_so(cli, folder):
    db = str(folder / "r.duckdb")
    options = ["--datasets", str(folder / "datasets"), "--n-prompts", "3", "--random", "0", "--db", db]
    with on_a_port(Cliff({1: 1.9, 2: 3.0}).answer) as url:
        code, out, _ = cli("search", "-t", "shouting", "--layers", "1,2", *options, "--url", url, "--json")
        best = json.loads(out)["best"][0]
        steered, out, err = cli("steer", "-t", "shouting", "hello", "--db", db, "--url", url, "--json")
        elsewhere = cli("steer", "-t", "shouting", "-l", "1", "hello", "--db", db, "--url", url)
    assert (code, steered) == (0, 0)
    applied = json.loads(out)["results"][0]["applied"][0]
    assert (applied["layer"], applied["coefficient"]) == (best["layer"], best["coefficient"])
    assert f"shouting, as the search in {db} found it: layer 2, coefficient {best['coefficient']:g}" in err
    assert elsewhere[0] == 2
    assert "add needs --coef; the search in" in elsewhere[2]


def test_steer_without_a_search_asks_for_a_coefficient(cli, folder):
    ResultStore(folder / "r.duckdb").writer().close()
    with on_a_port(MemoryService().answer) as url:
        empty = cli("steer", "-t", "shouting", "hello", "--db", str(folder / "r.duckdb"), "--url", url)
    assert empty[0] == 2
    assert "holds no search of shouting" in empty[2]
