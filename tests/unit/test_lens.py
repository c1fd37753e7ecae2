"""The final norm of a model, found beside its list of layers; that a model is read through it, the engine tests show."""

import pytest
from torch import nn
from trait_service.engine.errors import UnsupportedModelError
from trait_service.engine.lens import final_norm


class PPMissingLayer(nn.Identity):
    """A stand-in as vLLM names it."""


class Model(nn.Module):
    """Layers in `model`, and beside them, or around them, what a test names."""

    def __init__(self, around=None, **beside):
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([PPMissingLayer(), nn.Linear(4, 4), nn.Linear(4, 4)])
        for name, module in beside.items():
            self.model.add_module(name, module)
        for name, module in (around or {}).items():
            self.add_module(name, module)

    @property
    def layers(self):
        return {1: self.model.layers[1], 2: self.model.layers[2]}


@pytest.mark.parametrize("name", ["norm", "ln_f", "norm_f", "final_layernorm", "embedding_norm"])
def test_the_one_norm_beside_the_layers_is_the_final_one_whatever_its_name(name):
    model = Model(**{name: nn.RMSNorm(4)}, embed=nn.Embedding(3, 4))
    assert final_norm(model, model.layers) is getattr(model.model, name)


def test_of_several_norms_the_one_named_as_final_is_taken():
    model = Model(word_embeddings_layernorm=nn.LayerNorm(4), ln_f=nn.LayerNorm(4))
    assert final_norm(model, model.layers) is model.model.ln_f


def test_a_norm_around_the_part_with_the_layers_is_found():
    model = Model(around={"norm": nn.RMSNorm(4)})
    assert final_norm(model, model.layers) is model.norm


def test_norms_that_cannot_be_told_apart_are_refused_by_name():
    model = Model(first_norm=nn.RMSNorm(4), second_norm=nn.RMSNorm(4))
    with pytest.raises(UnsupportedModelError, match=r"Model: first_norm, second_norm beside its layers"):
        final_norm(model, model.layers)


def test_a_model_without_a_norm_is_refused():
    model = Model()
    with pytest.raises(UnsupportedModelError, match="Model: no norm was found behind its layers"):
        final_norm(model, model.layers)
