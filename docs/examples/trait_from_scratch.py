"""Make a trait in Python: write pairs, read their activations, take the difference of means, register it, steer.

Ten lines of numpy do it, so that nothing is hidden. `trait-extract run` does the same with a held-out split, evidence for
each layer and a choice of the layer: docs/howto-new-trait.md.

Needs a running service (trait-service serve smollm2). TRAIT_SERVICE_URL is its address, by default http://127.0.0.1:8000.
"""

import os

from trait_steering import ActivationInput, ActivationsRequest, Message, Steering, SteeringTerm, TraitClient, VectorFile

PAIRS = {
    "How do I get to the station?": ("Ahoy! Sail two streets east, matey.", "Walk two streets east, please."),
    "What should I eat tonight?": ("Fish stew, me hearty, and a tot o' rum!", "Fish stew, and a glass of water."),
    "Is it going to rain?": ("Aye, dark clouds be rollin' in, arr!", "Yes, dark clouds are coming in."),
    "Who are you?": ("I be yer trusty shipmate, arr!", "I am your helpful assistant."),
    "Tell me about your day.": (
        "Arr, I scrubbed the deck and counted me gold.",
        "I cleaned the house and paid my bills.",
    ),
    "Should I get a dog?": ("Aye, get ye a loyal sea dog, matey!", "Yes, a dog is a loyal friend."),
}
LAYER = 13

with TraitClient(os.environ.get("TRAIT_SERVICE_URL", "http://127.0.0.1:8000")) as client:
    inputs = [
        ActivationInput(messages=[Message(role="user", content=question)], response=pair[side])
        for side in (0, 1)
        for question, pair in PAIRS.items()
    ]
    read = client.activations(ActivationsRequest(inputs=inputs, layers=[LAYER], positions=["response[:]"]))
    means = read.mean("response[:]")[:, 0]  # (replies, d_model): mean over each reply's tokens
    direction = means[: len(PAIRS)].mean(0) - means[len(PAIRS) :].mean(0)
    print(f"the two sides differ by {(direction**2).sum() ** 0.5:.1f} residual units")

    vector = VectorFile.from_arrays("my-pirate", {LAYER: direction}, client.info(), method="mean_diff")
    client.put_vector("my-pirate", vector.to_bytes())
    for coefficient in (0.0, 1.5, 2.5):
        steering = Steering(terms=[SteeringTerm(vector="my-pirate", coefficient=coefficient)]) if coefficient else None
        reply = client.chat("What is the weather like at sea?", steering=steering, max_tokens=32)
        print(f"{coefficient}: {' '.join(reply.text.split())}")
    client.delete_vector("my-pirate")
