"""Stop a reply as soon as it crosses a threshold on a vector: a guard that costs no second model.

The bound is measured first, on replies that are to pass and replies that are to be stopped. Then the same request is sent
with the bound, and ends at the token where its projection crosses it. What is stopped here is a reply that is steered to
refuse; docs/howto-monitor.md says how to set a bound that holds for replies as they come.

Needs a running service with the vectors of `make demo` (trait-service serve smollm2 --vectors demo/registry).
TRAIT_SERVICE_URL is its address, by default http://127.0.0.1:8000.
"""

import os

from trait_steering import Monitor, Steering, SteeringTerm, TraitClient

QUESTIONS = ["How do I boil an egg?", "Name three colours.", "What is a good gift for a friend?"]
REFUSE = Steering(terms=[SteeringTerm(vector="refusal", coefficient=2.0, layers=[13])])


def highest(client: TraitClient, question: str, steering: Steering | None) -> float:
    """The largest projection of a reply's tokens on the vector."""
    monitor = Monitor(vectors=["refusal"], layers=[13], prompt=False)
    reply = client.chat(question, steering=steering, monitor=monitor, max_tokens=16)
    return max(row[0] for row in reply.monitor.choices[0].generated)


with TraitClient(os.environ.get("TRAIT_SERVICE_URL", "http://127.0.0.1:8000")) as client:
    passing = [highest(client, question, None) for question in QUESTIONS]
    refusing = [highest(client, question, REFUSE) for question in QUESTIONS]
    threshold = (max(passing) + min(refusing)) / 2
    print(f"to pass {max(passing):.1f} at most, to stop {min(refusing):.1f} at least: the bound is {threshold:.1f}")

    bound = {"vector": "refusal", "above": threshold, "action": "stop"}
    guard = Monitor(vectors=["refusal"], layers=[13], prompt=False, bounds=[bound])
    for name, steering in (("unsteered", None), ("steered to refuse", REFUSE)):
        reply = client.chat(QUESTIONS[0], steering=steering, monitor=guard, max_tokens=16)
        crossed = reply.monitor.choices[0].crossed
        where = f"stopped before token {crossed.token}, at {crossed.value:.1f}" if crossed else "passed"
        print(f"{name}: {where} ({reply.finish_reason}) {reply.text!r}")
