"""Damage beside effect: measured for every setting of a sweep, and a bound of a search."""

import asyncio
import json
import math

import pytest
from fake_registry import refusal
from fake_service import COMPLETIONS
from sweep_fixtures import N_LAYERS, MemoryService, experiment_of, vector_file
from trait_client.results import ResultStore
from trait_client.sweeps import run_sweep
from trait_client.sweeps.experiment import size_of
from trait_client.sweeps.search import SearchSettings, run_search
from trait_core.errors import DatasetError, InvalidRequestError
from vector_fixtures import made_vector

N_PASSAGES, N_QUESTIONS = 3, 4
READINGS = N_PASSAGES + 4 * N_QUESTIONS
SMALL = {"layers": [2], "coefficients": [1.0, 2.0], "control": {"random_directions": 1}, "damage": {}}


class Damaged(MemoryService):
    """Each word is as likely as its rival; a coefficient takes a tenth of the word's share, and makes B the answer."""

    def __init__(self, **options):
        super().__init__(vector_file(), made_vector(range(N_LAYERS), 7, trait="harm", chosen_layer=1), **options)

    def likeliest(self, word, applied):
        dose = sum(term.coefficient for term in applied)
        share = 0.9 if dose and word == "B" else 0.5 - 0.05 * dose
        return {word: math.log(share), "rival": math.log(1 - share)}


@pytest.fixture
def folder(folder):
    place = folder / "damage"  # beside the traits
    place.mkdir()
    passages = [{"id": f"p{i}", "text": f"A neutral text of number {i} ."} for i in range(N_PASSAGES)]
    questions = [
        {"id": f"q{i}", "question": f"Which {i} ?", "options": ["w", "x", "y", "z"], "answer": "AB"[i % 2]}
        for i in range(N_QUESTIONS)
    ]
    for name, entries in (("neutral", passages), ("choices", questions)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def sweep(folder, service, **values):
    async def go():
        async with service.client() as client:
            return await run_sweep(experiment_of(folder, **SMALL | values), client, ResultStore(folder / "r.duckdb"))

    return asyncio.run(go())


def rows(folder, sql):
    return ResultStore(folder / "r.duckdb").query(sql)[1]


def kl(dose):
    share = 0.5 - 0.05 * dose
    return 0.5 * math.log(0.5 / share) + 0.5 * math.log(0.5 / (1 - share))


def test_every_steered_setting_has_its_damage_and_no_other_cell(folder):
    service = Damaged()
    outcome = sweep(folder, service)
    assert (outcome.status, outcome.damage_missing) == ("ok", 0)
    found = rows(
        folder,
        "SELECT coefficient, kl, nll_rise, n_passages, baseline_accuracy, accuracy, accuracy_delta, n_questions "
        "FROM damage JOIN (SELECT DISTINCT setting_id, coefficient, kind FROM cells) USING (setting_id) ORDER BY coefficient",
    )
    assert [row[0] for row in found] == [1.0, 2.0]
    for dose, bits, rise, *others in found:
        assert bits == pytest.approx(kl(dose))
        assert rise == pytest.approx(math.log(0.5 / (0.5 - 0.05 * dose)))
        assert others == [N_PASSAGES, 0.5, 0.5, 0.0, N_QUESTIONS]  # always A, always B
    assert len(service.requests[COMPLETIONS]) == 3 * READINGS


def test_random_directions_are_measured_where_that_is_asked_for(folder):
    """Both kinds take the same share of the words here, so a setting's range is its own damage."""
    asked = {"damage": {"controls": True}, "control": {"random_directions": 2}, "seeds": [0, 1]}
    service = Damaged()
    sweep(folder, service, **asked)
    assert len(service.requests[COMPLETIONS]) == (1 + 2 * (1 + 2)) * READINGS
    assert size_of(experiment_of(folder, **SMALL | asked)).damage_readings == (1 + 2 * (1 + 2)) * READINGS
    found = rows(
        folder, "SELECT coefficient, n_random, random_kl_low, random_kl_high FROM effect_and_damage ORDER BY 1"
    )
    assert [row[:2] for row in found] == [(1.0, 2), (2.0, 2)]
    for dose, _, low, high in found:
        assert (low, high) == (pytest.approx(kl(dose)), pytest.approx(kl(dose)))


def test_without_that_a_range_of_random_directions_is_null(folder):
    sweep(folder, Damaged())
    assert rows(folder, "SELECT DISTINCT n_random, random_kl_low FROM effect_and_damage") == [(None, None)]


def test_damage_is_measured_once_for_settings_that_differ_in_sampling_alone(folder):
    service = Damaged()
    sweep(folder, service, seeds=[0, 1], temperature=[0.5, 1.0], coefficients=[1.0])
    assert len(service.requests[COMPLETIONS]) == 2 * READINGS
    assert rows(folder, "SELECT count(*), count(DISTINCT kl) FROM damage") == [(2, 1)]


def test_a_sweep_that_resumes_measures_what_is_new(folder):
    sweep(folder, Damaged(), damage=None)
    assert rows(folder, "SELECT count(*) FROM damage") == [(0,)]
    later = Damaged()
    assert sweep(folder, later).trials_run == 0
    assert len(later.requests[COMPLETIONS]) == 3 * READINGS
    again = Damaged()
    sweep(folder, again)
    assert again.requests[COMPLETIONS] == []
    more = Damaged()
    sweep(folder, more, coefficients=[1.0, 2.0, 3.0])
    assert len(more.requests[COMPLETIONS]) == 2 * READINGS  # the unsteered model is read again


def test_a_smaller_set_is_measured_beside_and_the_larger_one_is_shown(folder):
    sweep(folder, Damaged())
    sweep(folder, Damaged(), damage={"passages": 2, "questions": 0})
    assert rows(folder, "SELECT n_passages, n_questions, accuracy IS NULL, count(*) FROM damage GROUP BY ALL ORDER BY 1") == [
        (2, 0, True, 2), (3, 4, False, 2),
    ]  # fmt: skip
    assert rows(folder, "SELECT DISTINCT n_passages, n_questions FROM effect_and_damage") == [(3, 4)]


def test_damage_that_cannot_be_read_is_missing_and_is_read_next_time(folder):
    service = Damaged()
    too_many = refusal(400, "too many words")
    service.fails[COMPLETIONS] = lambda body: (
        too_many
        if (body.get("steering") or {"terms": [{"coefficient": 0}]})["terms"][0]["coefficient"] == 2.0
        else None
    )
    outcome = sweep(folder, service)
    assert (outcome.status, outcome.damage_missing, outcome.unscored) == ("partial", 1, 0)
    assert "damage of 1 settings not measured yet" in outcome.line
    assert outcome.errors == (("damage: ServiceError: too many words", 1),)
    assert sweep(folder, Damaged()).status == "ok"
    assert rows(folder, "SELECT count(*) FROM damage") == [(2,)]


@pytest.mark.parametrize(
    ("values", "measured"),
    [
        ({"scope": "response[:]"}, 0),
        ({"scope": "generated"}, 0),
        ({"scope": "prompt[-4:], response[:]"}, 0),
        ({"scope": "all[4:]"}, 1),
        ({"scope": {"positions": [0, 4]}}, 0),
        ({"scope": "response[:]", "when": "harm@1>0.5"}, 0),
        ({"scope": "all"}, 1),
        ({"when": "harm@1>0.5, prompt"}, 0),
        ({"when": "harm@1>0.5"}, 1),
    ],
)
def test_a_change_that_reaches_few_prompt_tokens_has_no_damage_and_misses_none(folder, values, measured):
    outcome = sweep(folder, Damaged(), coefficients=[1.0], **values)
    assert (outcome.status, outcome.damage_missing) == ("ok", 0)
    assert rows(folder, "SELECT count(*) FROM damage") == [(measured,)]


def test_the_size_of_an_experiment_counts_what_is_read(folder):
    asked = experiment_of(folder, **SMALL | {"seeds": [0, 1], "damage": {"passages": 2, "questions": 1}})
    assert size_of(asked).damage_readings == (2 + 1) * (2 + 4)
    assert size_of(experiment_of(folder)).damage_readings == 0


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        ({"passages": 9}, InvalidRequestError, "damage.passages = 9: .* has 3"),
        ({"folder": "nowhere"}, DatasetError, "nowhere"),
        ({"passages": 0}, InvalidRequestError, "damage.passages"),
    ],
)
def test_a_set_that_is_missing_or_too_small_is_refused_before_anything_runs(folder, damage, error, words):
    service = Damaged()
    with pytest.raises(error, match=words):
        sweep(folder, service, damage=damage)
    assert service.chats == []


def test_the_front_holds_the_settings_that_no_other_beats(folder):
    """Shouting is the same at every dose, so that the least damage for it is the one on the front."""
    sweep(folder, Damaged(), coefficients=[1.0, 2.0, 3.0])
    assert rows(folder, "SELECT coefficient FROM pareto_front") == [(1.0,)]
    found = rows(
        folder, "SELECT coefficient, on_front, length, baseline_length FROM effect_and_damage ORDER BY coefficient"
    )
    assert [row[:2] for row in found] == [(1.0, True), (2.0, False), (3.0, False)]
    assert all(length == baseline > 0 for *_, length, baseline in found)


def search(folder, **settings):
    async def go():
        async with Damaged().client() as client:
            experiment = experiment_of(
                folder, **SMALL | {"layers": [1, 2], "coefficients": [0.0], "damage": {"questions": 0}}
            )
            return await run_search(experiment, SearchSettings(**settings), client, ResultStore(folder / "r.duckdb"))

    return asyncio.run(go())


def test_a_search_holds_a_bound_of_the_kl_in_place_of_coherence(folder):
    outcome = search(folder, start=0.4, steps=4, max_kl=kl(3.0))
    (best,) = outcome.best
    assert best.kl <= kl(3.0) == best.max_kl
    assert best.coefficient <= 3.0
    tried = [dose for (dose,) in rows(folder, "SELECT DISTINCT coefficient FROM cells WHERE kind = 'steered'")]
    assert max(tried) > 3.0  # it began above, and came down
    assert rows(folder, "SELECT kl <= max_kl, bar FROM best_settings") == [(True, 0.0)]


def test_a_search_without_a_setting_below_the_bound_says_the_least(folder):
    outcome = search(folder, start=0.4, steps=1, max_kl=0.001)
    assert outcome.best == ()
    ((_, _, why),) = outcome.nothing
    assert why.startswith("no setting had a KL of at most 0.001 nats a token (the least was 0.08")


def test_a_bound_needs_a_set_to_measure_it_on(folder):
    async def go():
        async with Damaged().client() as client:
            experiment = experiment_of(folder, coefficients=[0.0])
            await run_search(experiment, SearchSettings(max_kl=0.1), client, ResultStore(folder / "r.duckdb"))

    with pytest.raises(InvalidRequestError, match=r"give the experiment a \[damage\] table"):
        asyncio.run(go())
