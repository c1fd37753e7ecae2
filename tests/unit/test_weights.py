"""Models are told apart by a sample of their weights."""

import numpy as np
import safetensors.numpy
from trait_service.models.identity import registry_folder
from trait_service.models.weights import note_source, weights_digest


def model(folder, change=None, n=3_000_000):
    """A folder with two weight files; `change` alters one number of the second."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tensors = [np.arange(n, dtype=np.float32), np.arange(n, dtype=np.float32) * 2]
    if change is not None:
        tensors[1][change : change + 100_000] += 1
    for i, tensor in enumerate(tensors):
        safetensors.numpy.save_file({"w": tensor}, folder / f"model-{i}.safetensors")
    return folder


def test_equal_weights_are_one_model_wherever_they_stand_and_changed_ones_are_another(tmp_path):
    base = weights_digest(model(tmp_path / "base"))
    assert base.startswith("sha256:")
    assert weights_digest(model(tmp_path / "copy")) == base
    changed = {weights_digest(model(tmp_path / f"tuned-{at}", at)) for at in (0, 1_400_000, 2_900_000)}
    assert len(changed | {base}) == 4


def test_a_quantised_copy_has_the_weights_that_it_was_made_of(tmp_path):
    original, copy = model(tmp_path / "base"), model(tmp_path / "copy", 5)
    assert weights_digest(copy) != weights_digest(original)
    note_source(original, copy)
    assert weights_digest(copy) == weights_digest(original)


def test_weights_that_are_not_here_have_no_digest(tmp_path):
    assert weights_digest(tmp_path) is None
    assert weights_digest("nobody/has-this-model") is None
    assert weights_digest(str(tmp_path / "gone" / "a" / "b")) is None


def test_a_single_file_is_a_model_too(tmp_path):
    folder = model(tmp_path / "base")
    one, other = (weights_digest(folder / f"model-{i}.safetensors") for i in range(2))
    assert None not in (one, other)
    assert one != other


def test_a_fine_tune_has_a_registry_of_its_own():
    config = "sha256:" + "a" * 64
    names = {registry_folder(config, weights) for weights in (None, "sha256:" + "b" * 64, "sha256:" + "c" * 64)}
    assert names == {"a" * 16, f"{'a' * 16}-{'b' * 16}", f"{'a' * 16}-{'c' * 16}"}
