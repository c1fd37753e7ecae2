"""Identity of a model's weights: a digest of a sample of its files' bytes, which distinguishes a fine-tune from its base model.

Reading all of a large model's files would take minutes. 64 blocks of 64 KiB, evenly spread over each file, are a sample that
any training changes; two models of equal shape and equal sample are taken for one.
"""

import hashlib
import json
import logging
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

logger = logging.getLogger(__name__)

N_BLOCKS, BLOCK = 64, 64 * 1024
SUFFIXES = (".safetensors", ".bin", ".gguf")
"""Weight-file patterns, in order of preference; all files of the first pattern that matches are sampled."""
SOURCE_FILE = "source_weights.json"
"""In a quantised copy: the digest of the weights that were rounded. Vectors of the one are vectors of the other."""


def weights_digest(model: str | Path, revision: str | None = None) -> str | None:
    """`sha256:` digest of a model's weights, as a sample of them has it.

    Args:
        model: A folder, a file, or the Hugging Face id of a model in the local cache.
        revision: Revision of the Hugging Face id.

    Returns:
        The digest, of a copy that was quantised here that of the original; None where no weight file is found.
    """
    path = _local(model, revision)
    if path is not None and (path / SOURCE_FILE).is_file():
        return str(json.loads((path / SOURCE_FILE).read_text(encoding="utf-8"))["weights_digest"])
    return checkpoint_digest(model, revision)


def checkpoint_digest(model: str | Path, revision: str | None = None) -> str | None:
    """As `weights_digest`, of the files themselves: a quantised copy has its own, and so has a LoRA adapter."""
    path = _local(model, revision)
    if path is None:
        logger.warning("no weight files of %s were found: its fine-tunes cannot be distinguished from it", model)
        return None
    files = [path] if path.is_file() else _weight_files(path)
    if not files:
        logger.warning("%s holds no weight file: its fine-tunes cannot be distinguished from it", path)
        return None
    digest = hashlib.sha256()
    for file in files:
        _sample(file, digest)
    return f"sha256:{digest.hexdigest()}"


def note_source(source: Path, copy: Path) -> None:
    """Write into a quantised copy which weights it was rounded from."""
    digest = weights_digest(source)
    if digest is not None:
        (copy / SOURCE_FILE).write_text(json.dumps({"weights_digest": digest}) + "\n", encoding="utf-8")


def _local(model: str | Path, revision: str | None) -> Path | None:
    path = Path(model)
    if path.exists():
        return path
    try:
        return Path(snapshot_download(str(model), revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _weight_files(folder: Path) -> list[Path]:
    found = ([p for p in sorted(folder.iterdir()) if p.suffix == suffix and p.is_file()] for suffix in SUFFIXES)
    return next((files for files in found if files), [])


def _sample(file: Path, digest: "hashlib._Hash") -> None:
    size = file.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with file.open("rb") as stream:
        for i in range(N_BLOCKS):
            stream.seek(max(0, size - BLOCK) * i // (N_BLOCKS - 1))
            digest.update(stream.read(BLOCK))
