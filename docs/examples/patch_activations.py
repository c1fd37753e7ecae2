"""Patch activations: which position, on which layer, carries the answer to "The capital of France is"?

The prompt about Italy is run with one stream of the prompt about France in it, position by position and layer by layer. The
table shows how much of the way from " Rome" to " Paris" each cell goes: 0 changes nothing, 1 answers as for France.

Needs a running service (trait-service serve smollm2). TRAIT_SERVICE_URL is its address, by default http://127.0.0.1:8000.
"""

import os

from trait_core.schema import PatchPrompt, PatchRequest
from trait_steering import TraitClient

LAYERS = [0, 6, 12, 18, 24]
FRANCE = PatchPrompt(text="The capital of France is", span="France", answer=" Paris")
ITALY = PatchPrompt(text="The capital of Italy is", span="Italy", answer=" Rome")

with TraitClient(os.environ.get("TRAIT_SERVICE_URL", "http://127.0.0.1:8000")) as client:
    report = client.patch(PatchRequest(source=FRANCE, target=ITALY, layers=LAYERS))

print(
    f"log p( Paris) - log p( Rome): France {report.source.difference:+.2f}, Italy {report.target.difference:+.2f} nats"
)
positions = sorted({cell.positions[0] for cell in report.cells})
restored = {(cell.layer, cell.positions[0]): cell.restored for cell in report.cells}
print("layer" + "".join(f"{report.target.tokens[position]!r:>12}" for position in positions))
for layer in LAYERS:
    print(f"{layer:>5}" + "".join(f"{restored[layer, position]:>12.2f}" for position in positions))
