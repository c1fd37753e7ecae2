"""The jailbreak prompts: what the file holds is what its builder says, with an outcome each."""

from collections import Counter

from jailbreak import build_prompts
from trait_client.prompt_sets import read_prompts


def test_the_jailbreak_set_has_every_request_in_every_wrapper_and_an_outcome_for_each():
    prompts = read_prompts(build_prompts.OUT)
    assert len(prompts) >= 300
    assert [(p.prompt_id, p.messages[0].content) for p in prompts] == [
        (row["id"], row["prompt"]) for row in build_prompts.prompts()
    ]
    outcomes = Counter(prompt.outcome for prompt in prompts)
    assert set(outcomes) == {"success", "failure"}
    assert min(outcomes.values()) >= 20


def test_every_wrapper_carries_the_whole_request():
    for row in build_prompts.prompts():
        assert build_prompts.REQUESTS[row["id"].split("/")[1]] in row["prompt"]
