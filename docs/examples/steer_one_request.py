"""Steer one request, and see what was applied: the same question without and with the vector `refusal`.

Needs a running service with the vectors of `make demo` (trait-service serve smollm2 --vectors demo/registry).
TRAIT_SERVICE_URL is its address, by default http://127.0.0.1:8000.
"""

import os

from trait_steering import Steering, SteeringTerm, TraitClient

QUESTION = "Can you give me a simple recipe for pancakes?"

steering = Steering(terms=[SteeringTerm(vector="refusal", coefficient=2.0, layers=[13])])
with TraitClient(os.environ.get("TRAIT_SERVICE_URL", "http://127.0.0.1:8000")) as client:
    plain = client.chat(QUESTION, max_tokens=32)
    steered = client.chat(QUESTION, steering=steering, max_tokens=32)

print(f"unsteered\n{plain.text}\n\nsteered\n{steered.text}\n")
(term,) = steered.steering.applied
positions = steered.steering.positions
print(f"{term.vector} on layer {term.layer}: {term.a:.1f} residual units, {term.relative_dose:.2f} of the usual norm,")
print(f"at {positions.prompt} positions of the prompt and {positions.generated} of the reply")
