"""Capture activations and train a probe with scikit-learn: is a reply formal or casual, read from the residual stream?

24 texts are read in one request, on all layers. For each layer a logistic regression is tested on texts that it has not
seen. The best layer's weights then become a vector file like any other, which steers.

Needs a running service (trait-service serve smollm2). TRAIT_SERVICE_URL is its address, by default http://127.0.0.1:8000.
"""

import os

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from trait_steering import ActivationInput, ActivationsRequest, Steering, SteeringTerm, TraitClient, VectorFile

FORMAL = "I would be grateful if you could {}.|It is requested that you {} at your earliest convenience.|May I ask you to {}?"
CASUAL = "Hey, just {}, okay?|Yo, wanna {} real quick?|C'mon, {} already, no biggie."
ERRANDS = ["open the window", "send the report", "call the bank", "water the plants"]

texts = [line.format(errand) for line in (FORMAL + "|" + CASUAL).split("|") for errand in ERRANDS]
labels = np.repeat([1, 0], len(texts) // 2)
groups = np.tile(np.arange(len(ERRANDS)), len(texts) // len(ERRANDS))
folds = [(np.flatnonzero(groups != errand), np.flatnonzero(groups == errand)) for errand in range(len(ERRANDS))]

with TraitClient(os.environ.get("TRAIT_SERVICE_URL", "http://127.0.0.1:8000")) as client:
    request = ActivationsRequest(inputs=[ActivationInput(text=text) for text in texts], positions=["prompt[:]"])
    read = client.activations(request)
    x = read.mean("prompt[:]")  # (texts, layers, d_model)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    scores = [cross_val_score(probe, x[:, i], labels, cv=folds).mean() for i in range(x.shape[1])]
    print("accuracy on errands that the probe has not seen, by layer:")
    print(" ".join(f"{layer}:{score:.2f}" for layer, score in zip(read.metadata.layers, scores, strict=True)))

    at = int(np.argmax(scores))
    scaler, regression = probe.fit(x[:, at], labels)
    layer = read.metadata.layers[at]
    vector = VectorFile.from_arrays("formal-probe", {layer: regression.coef_[0] / scaler.scale_}, client.info())
    client.put_vector("formal-probe", vector.to_bytes())
    term = SteeringTerm(vector="formal-probe", coefficient=2.0)
    print(f"steered with the probe of layer {layer}:")
    print(client.chat("Ask a friend to lunch.", steering=Steering(terms=[term]), max_tokens=32).text)
    client.delete_vector("formal-probe")
