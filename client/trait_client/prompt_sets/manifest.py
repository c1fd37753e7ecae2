"""`manifest.json` of a captured prompt set: its options and its shards."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, JsonValue, ValidationError

from trait_client.prompt_sets.prompts import SetPrompt, demand_chats, digest_of
from trait_core.errors import DatasetError, InvalidRequestError, first_fault
from trait_core.model_identity import ANSWERING_FIELDS, digest
from trait_core.positions import REPLY_PARTS, Positions
from trait_core.schema import RESID_POST, ChatTemplateKwargs, Generation, HookPoint, Request, Response, ServiceInfo
from trait_core.storage import write_atomically

MANIFEST = "manifest.json"

_INFO_FIELDS = {*ANSWERING_FIELDS, "n_layers", "d_model"}
_RANGE = re.compile(r"^(\d{1,4})(?:-(\d{1,4}))?$")


class CaptureOptions(Request):
    """Options of a capture.

    Attributes:
        positions: Positions to pool, in the syntax of `POST /v1/activations`.
        layers: 0-based decoder blocks; None for all.
        at: The place in these blocks that is read.
        generate: Options to generate a reply where none is given; None to generate none.
        shard_size: Prompts in each shard.
        chat_template_kwargs: Variables of the chat template.
    """

    positions: list[str] = Field(min_length=1)
    layers: list[int] | None = None
    at: HookPoint = RESID_POST
    generate: Generation | None = None
    shard_size: int = Field(default=256, ge=1)
    chat_template_kwargs: ChatTemplateKwargs = None


class CaptureIdentity(Response):
    """Identity of a capture; runs into one folder must agree in all fields.

    Attributes:
        prompts_digest: Digest of texts, ids and order of the prompts.
    """

    model: str
    config_digest: str
    chat_template_digest: str | None
    n_layers: int
    d_model: int
    dtype: str
    quantization: str | None
    layers: list[int]
    at: HookPoint = RESID_POST
    positions: list[str]
    generate: Generation | None
    shard_size: int
    prompts_digest: str
    chat_template_kwargs: ChatTemplateKwargs = None

    @classmethod
    def of(cls, options: CaptureOptions, prompts: Sequence[SetPrompt], info: ServiceInfo) -> Self:
        """Identity of a new capture.

        Raises:
            InvalidRequestError: Positions or layers are wrong, or a prompt has no response to read.
        """
        positions = [str(Positions.parse(text)) for text in options.positions]
        if doubled := sorted({name for name in positions if positions.count(name) > 1}):
            raise InvalidRequestError(f"positions {doubled[0]} are given twice", param="positions")
        wanting = next((name for name in positions if Positions.parse(name).parts & REPLY_PARTS), None)
        silent = next((prompt for prompt in prompts if prompt.response is None), None)
        demand_chats(prompts, options.chat_template_kwargs)
        if options.generate is None and wanting is not None and silent is not None:
            raise InvalidRequestError(
                f"prompt {silent.prompt_id!r} has no response to read at {wanting}: "
                "set --max-tokens to generate one where none is given",
                param="positions",
            )
        layers = sorted(set(options.layers)) if options.layers is not None else list(range(info.n_layers))
        if layers[-1] >= info.n_layers:
            raise InvalidRequestError(
                f"layer {layers[-1]} is out of range: {info.model} has layers 0..{info.n_layers - 1}", param="layers"
            )
        return cls(
            **info.model_dump(include=_INFO_FIELDS),
            layers=layers,
            at=options.at,
            positions=positions,
            generate=options.generate,
            shard_size=options.shard_size,
            prompts_digest=digest_of(prompts),
            chat_template_kwargs=options.chat_template_kwargs,
        )

    def digest(self) -> str:
        """Digest of the identity; each shard has it, so that shards of different captures are never mixed."""
        fields = set(CaptureIdentity.model_fields)
        # Shards that were written before these existed stay valid.
        if self.chat_template_kwargs is None:
            fields.discard("chat_template_kwargs")
        if self.at == RESID_POST:
            fields.discard("at")
        return digest(self.model_dump(mode="json", include=fields))

    def differences(self, other: "CaptureIdentity") -> list[str]:
        """Differences between two captures, one line each."""
        lines = []
        for name in CaptureIdentity.model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                lines.append(f"{name} {_shown(mine)} there, {_shown(theirs)} now")
        return lines


class ShardEntry(Response):
    """A written shard.

    Attributes:
        first: Index of its first prompt.
        failed: Prompt id -> reason why it could not be read; its row is NaN.
    """

    file: str
    sha256: str
    first: int
    n_prompts: int
    failed: dict[str, str]


class Manifest(CaptureIdentity):
    """The content of `manifest.json`.

    Attributes:
        ids: Ids of all prompts, in order: row i of the capture is prompt i.
        outcomes: Labels of the prompts, from the last run's prompt set.
        prompt_sets: Names of the sets that the prompts are of, from the last run; None in an older manifest.
        metadata: Further fields of each prompt, from the last run's prompt set; None in an older manifest.
        shards: Written shards, in order.
        complete: True if every prompt was read.
    """

    schema_version: int = 1
    ids: list[str]
    outcomes: list[str | None]
    prompt_sets: list[str | None] | None = None
    metadata: list[dict[str, JsonValue]] | None = None
    shards: list[ShardEntry]
    complete: bool = False

    @property
    def n_shards(self) -> int:
        """Number of shards of the whole capture."""
        return -(-len(self.ids) // self.shard_size)

    @property
    def failed(self) -> dict[str, str]:
        """Prompt id -> reason why it could not be read."""
        return {prompt_id: reason for shard in self.shards for prompt_id, reason in shard.failed.items()}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder's manifest.

        Raises:
            DatasetError: It is missing or cannot be read.
        """
        path = folder / MANIFEST
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise DatasetError(f"{folder} holds no capture: it has no {MANIFEST}") from error
        except ValidationError as error:
            raise DatasetError(f"{path}: {first_fault(error, whole='the file')}") from error

    def save(self, folder: Path) -> None:
        """Write atomically."""
        self.complete = len(self.shards) == self.n_shards and not self.failed
        write_atomically(folder / MANIFEST, self.model_dump_json(indent=1).encode())


def parse_layers(text: str) -> list[int] | None:
    """Parse layers of the command line: `8-20`, `9,13,17`, `0-3,13`; `all` is None.

    Raises:
        InvalidRequestError: The text is not such a list.
    """
    if text == "all":
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InvalidRequestError(f"layers {text!r} are not understood: write 8-20, or 9,13,17, or all", "layers")
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(layers)


def _shown(value: Any) -> str:
    text = json.dumps(value.model_dump() if isinstance(value, Generation) else value)
    return text if len(text) <= 80 else text[:77] + "..."
