"""Checks before anything is loaded: a model that cannot be had, a port in use, a folder that cannot be written.

vLLM finds the same faults after a minute of imports, in pages of tracebacks.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from trait_core.listening import PortError, check_port
from trait_core.os_errors import sentence_of
from trait_core.text_files import one_line

from trait_service.models.bundled import MODELS, ModelError
from trait_service.paths import trait_home

HUB_SECONDS = 10.0
"""Longest wait for the hub's answer; a hub that is only slow is left to vLLM."""

_PART = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"^{_PART}(/{_PART})?$")
_OTHER_PLACE = re.compile(rf"://|^{_PART}/{_PART}(:[\w.-]+|/{_PART}\.gguf)$")
"""Models that vLLM finds by itself: a URL, `owner/name:quantisation`, `owner/name/file.gguf`."""


def check_listening(host: str, port: int, further: Sequence[str]) -> list[str]:
    """List the reason why the server could not listen; vLLM's `--uds` needs no port."""
    if any(word.partition("=")[0] == "--uds" for word in further):
        return []
    try:
        check_port(host, port)
    except PortError as error:
        return [str(error)]
    return []


def check_folders(vectors: Path) -> list[str]:
    """List the folders of the service that cannot be used, each with the option that names another one.

    Args:
        vectors: Folder of the registry. A read-only one is served from, as long as it exists.
    """
    problems = []
    # torch makes its cache there when it is imported.
    refused = None if "TORCHINDUCTOR_CACHE_DIR" in os.environ else unwritable(trait_home())
    if refused is not None:
        problems.append(f"{refused} (the service's own folder: set TRAIT_HOME to one that can be written)")
    if vectors.is_dir():
        refused = _unlistable(vectors)
    else:
        refused = None if vectors.is_relative_to(trait_home()) else unwritable(vectors)
    if refused is not None:
        problems.append(f"{refused} (the registry of vectors: name another folder with --vectors)")
    return problems


def unwritable(folder: Path) -> str | None:
    """The sentence that says why a folder, or a missing one's nearest parent, cannot be written; None if it can."""
    place = folder.expanduser().absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        return sentence_of(error, place)
    return None


def _unlistable(folder: Path) -> str | None:
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        return sentence_of(error, folder)
    return None


def check_model(model: str, further: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a model that is neither a folder, nor bundled, nor in the hub's cache, nor on the hub.

    Args:
        model: As given to `trait-service serve`.
        further: vLLM's own flags, of which `--revision`, `--download-dir` and `--hf-token` say where it comes from.
        environment: Variables that choose another hub, or none.

    Raises:
        ModelError: The model cannot be had; the message says what to give instead.
    """
    if model in MODELS or Path(model).expanduser().exists() or _is_set(environment, "VLLM_USE_MODELSCOPE"):
        return
    if _HUB_ID.match(model) is None:
        if _OTHER_PLACE.search(model):
            return
        raise ModelError(f"{model!r} is neither a folder nor the id of a model, such as owner/name: {_advice(model)}")
    if not _is_cached(model, further):
        _check_hub(model, further, environment)


def _is_cached(model: str, further: Sequence[str]) -> bool:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - reads the environment on import

    revision, folder = _value(further, "--revision"), _value(further, "--download-dir")
    names = ("config.json", "params.json", "adapter_config.json")
    return any(isinstance(try_to_load_from_cache(model, name, folder, revision), str) for name in names)


def _check_hub(model: str, further: Sequence[str], environment: Mapping[str, str]) -> None:
    from huggingface_hub import HfApi, constants, errors  # noqa: PLC0415 - reads the environment on import

    place = _value(further, "--download-dir") or constants.HF_HUB_CACHE
    if constants.HF_HUB_OFFLINE or any(map(partial(_is_set, environment), ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))):
        raise ModelError(
            f"{model} is not in the cache {place}, and HF_HUB_OFFLINE forbids a download: {_advice(model)}"
        )
    token = _value(further, "--hf-token") or environment.get("HF_TOKEN") or None
    try:
        HfApi().model_info(model, revision=_value(further, "--revision"), timeout=HUB_SECONDS, token=token)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{model} is gated: accept its terms at {constants.ENDPOINT}/{model}, and set HF_TOKEN to a token that may read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{model} has no revision {_value(further, '--revision')!r} at {constants.ENDPOINT}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{constants.ENDPOINT} has no model {model} that this machine may read (a private one needs HF_TOKEN): "
            f"{_advice(model)}"
        ) from error
    except Exception as error:  # httpx of the hub's own vendoring, or requests: their classes have no common base
        if type(error).__name__ in {"ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError", "SSLError"}:
            raise ModelError(
                f"{model} is not in the cache {place}, and the hub {constants.ENDPOINT} cannot be reached "
                f"({one_line(error)}): {_advice(model)}"
            ) from error
        # Anything else may be a mirror that answers files only: vLLM's own attempt decides.


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "0").upper() in {"1", "ON", "YES", "TRUE"}


def _advice(model: str) -> str:
    close = get_close_matches(model.rpartition("/")[2].lower(), MODELS, n=1, cutoff=0.7)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}give the folder of a model, an id that the hub has, or one that comes along: {', '.join(MODELS)}"


def _value(further: Sequence[str], flag: str) -> str | None:
    """The value of one of vLLM's flags; None if it is not given."""
    for i, word in enumerate(further):
        name, _, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value or (further[i + 1] if i + 1 < len(further) else None)
    return None
