"""Both clients have one interface: the same public methods with the same signatures, async apart."""

import inspect

import pytest
from trait_client.http import AsyncTraitClient, TraitClient


def public(client):
    return {name: value for name, value in vars(client).items() if callable(value) and not name.startswith("_")}


def returned(annotation):
    """The annotation without `Async`, so that `AsyncIterator[T]` is `Iterator[T]`."""
    return str(annotation).replace("Async", "")


def test_both_clients_have_the_same_public_methods():
    assert public(AsyncTraitClient).keys() == public(TraitClient).keys()
    assert len(public(TraitClient)) > 10


@pytest.mark.parametrize("name", sorted(public(TraitClient)))
def test_a_method_has_the_same_signature_in_both_clients(name):
    one, other = (inspect.signature(getattr(client, name)) for client in (TraitClient, AsyncTraitClient))
    assert list(other.parameters.values()) == list(one.parameters.values())
    assert returned(other.return_annotation) == returned(one.return_annotation)


@pytest.mark.parametrize("name", sorted(public(TraitClient)))
def test_only_the_async_clients_methods_are_asynchronous(name):
    method = getattr(AsyncTraitClient, name)
    assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
    assert not inspect.iscoroutinefunction(getattr(TraitClient, name))


def test_both_clients_are_made_from_the_same_arguments():
    one, other = (inspect.signature(client.__init__).parameters for client in (TraitClient, AsyncTraitClient))
    assert list(one) == list(other)
    assert all(one[name].default == other[name].default for name in one if name != "self")
