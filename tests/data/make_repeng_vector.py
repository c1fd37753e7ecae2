"""How `repeng_smollm2.gguf` was made: by repeng 0.4.0 itself, trained on SmolLM2-135M-Instruct.

    pip install --no-deps --target repeng repeng==0.4.0
    PYTHONPATH=repeng python tests/data/make_repeng_vector.py MODEL_FOLDER tests/data/repeng_smollm2.gguf

repeng 0.4.0 asks for numpy 1; the one name that numpy 2 has dropped is put back for it.
"""

import sys

import numpy as np

setattr(np, "float_", np.float64)  # noqa: B010 - a name that numpy does not know

from repeng import ControlModel, ControlVector, DatasetEntry  # type: ignore[import-not-found]  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

MOODS = ("delighted", "miserable")
BEGINNINGS = (
    "This morning I",
    "The train to work",
    "My sister said that",
    "At the end of the day",
    "Every winter the town",
)
LAYERS = (5, 9, 13)


def main() -> None:
    """Train on a few beginnings told in two moods, and export."""
    folder, out = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = ControlModel(AutoModelForCausalLM.from_pretrained(folder), list(LAYERS))
    entries = [DatasetEntry(*(f"Somebody {mood} says: {beginning}" for mood in MOODS)) for beginning in BEGINNINGS]
    ControlVector.train(model, tokenizer, entries, hidden_layers=LAYERS, batch_size=2).export_gguf(out)


if __name__ == "__main__":
    main()
