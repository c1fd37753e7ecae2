"""Vectors of a sweep: each trait's own, found in the registry by method and hook point, and random ones beside it."""

from dataclasses import dataclass
from typing import NamedTuple

from trait_client.http import AsyncTraitClient
from trait_client.sweeps.experiment import Experiment
from trait_core.errors import InvalidRequestError
from trait_core.schema import HookPoint, ServiceInfo, VectorInfo
from trait_core.storage import sha256_of
from trait_core.vectors.controls import control_name
from trait_core.vectors.file import VectorFile
from trait_core.vectors.lookup import find_vector
from trait_core.vectors.random import random_vector


@dataclass(frozen=True)
class SweepVector:
    """A registered vector and its file."""

    name: str
    sha256: str
    file: VectorFile


class VectorKey(NamedTuple):
    """Names a trait's vector in an experiment; without a hook point it is wherever the vector was extracted."""

    trait: str
    method: str
    at: HookPoint | None = None


async def vectors_of(
    key: VectorKey, experiment: Experiment, info: ServiceInfo, client: AsyncTraitClient, registered: list[VectorInfo]
) -> list[SweepVector]:
    """A trait's vector, then the experiment's random ones, which are registered where they are missing.

    Raises:
        InvalidRequestError: The vector is missing or ambiguous, or the service lacks its hook point.
    """
    own = await fetched(client, _vector_of(experiment, registered, key))
    _check_served(own, info)
    seeds = range(experiment.control.random_directions)
    return [own, *[await _register_control(client, registered, own, seed) for seed in seeds]]


async def fetched(client: AsyncTraitClient, found: VectorInfo) -> SweepVector:
    """A registered vector with its file."""
    return SweepVector(found.name, found.sha256, await client.vector_file(found.name))


def _vector_of(experiment: Experiment, registered: list[VectorInfo], key: VectorKey) -> VectorInfo:
    reference = experiment.vector_of(key.trait)
    if reference is None:
        choose = f"set vector under [trait.{key.trait}]"
        return find_vector(
            registered, trait=key.trait, method=key.method, at=key.at, choose=choose, param="at" if key.at else "traits"
        )
    found = find_vector(registered, reference=reference, param=f"trait.{key.trait}.vector")
    if key.at not in (None, found.metadata.hook_point):
        raise InvalidRequestError(
            f"the vector {found.name!r} is for {found.metadata.hook_point}, and at is {key.at}: leave at out, or name a vector "
            "that was extracted there",
            param=f"trait.{key.trait}.vector",
        )
    return found


def _check_served(vector: SweepVector, info: ServiceInfo) -> None:
    """Refuse a hook point that the service lacks before the sweep, instead of in each trial."""
    at = vector.file.metadata.hook_point
    if at not in info.hook_points:
        raise InvalidRequestError(
            f"the vector {vector.name!r} is for {at}, and the service has {', '.join(info.hook_points)}: start it with "
            f"--hook-points {at}",
            param="at",
        )


async def _register_control(
    client: AsyncTraitClient, registered: list[VectorInfo], vector: SweepVector, seed: int
) -> SweepVector:
    file = random_vector(vector.file, seed)
    data = file.to_bytes()
    name, sha256 = control_name(vector.sha256, seed), sha256_of(data)
    if not any(each.name == name and each.sha256 == sha256 for each in registered):
        await client.put_vector(name, data)
    return SweepVector(name, sha256, file)
