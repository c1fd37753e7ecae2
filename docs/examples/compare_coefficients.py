"""Compare ten coefficients in one batch: how the reply and its projection on the vector change with the dose.

The requests are sent together and the engine batches them, each with a coefficient of its own. Past a dose, which differs
from model to model, replies stop being English.

Needs a running service with the vectors of `make demo` (trait-service serve smollm2 --vectors demo/registry).
TRAIT_SERVICE_URL is its address, by default http://127.0.0.1:8000.
"""

import asyncio
import os

from trait_steering import AsyncTraitClient, ChatResult, Monitor, Steering, SteeringTerm

QUESTION = "How do I boil an egg?"
COEFFICIENTS = [-4.0, -3.0, -2.0, -1.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
LAYER = 13


async def replies(url: str) -> list[ChatResult]:
    """One reply for each coefficient, all at once."""
    monitor = Monitor(vectors=["refusal"], layers=[LAYER + 4], prompt=False)  # read behind the layer that is steered
    async with AsyncTraitClient(url) as client:
        terms = [SteeringTerm(vector="refusal", coefficient=c, layers=[LAYER]) for c in COEFFICIENTS]
        chats = [client.chat(QUESTION, steering=Steering(terms=[t]), monitor=monitor, max_tokens=24) for t in terms]
        return await asyncio.gather(*chats)


url = os.environ.get("TRAIT_SERVICE_URL", "http://127.0.0.1:8000")
print("coefficient  rel. dose  mean projection  reply")
for coefficient, reply in zip(COEFFICIENTS, asyncio.run(replies(url)), strict=True):
    rows = reply.monitor.choices[0].generated
    mean = sum(row[0] for row in rows) / len(rows)
    dose = reply.steering.applied[0].relative_dose
    print(f"{coefficient:>11}  {dose:>9.2f}  {mean:>15.1f}  {' '.join(reply.text.split())[:70]}")
