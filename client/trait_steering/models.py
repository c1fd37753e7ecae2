"""Folders of models, for code that loads one with transformers beside the service."""

from pathlib import Path

from trait_core.errors import InvalidRequestError
from trait_service.models.bundled import resolve


def model_folder(name_or_path: str = "smollm2") -> Path:
    """Folder of a bundled model, fetched if needed; a path is returned as it is.

    Raises:
        ModelError: The path does not exist, or the model cannot be fetched.
        InvalidRequestError: The name is neither a bundled model nor a folder.
    """
    folder = Path(resolve(name_or_path))
    if not folder.is_dir():
        raise InvalidRequestError(
            f"{name_or_path} is neither a bundled model nor a folder: give smollm2 or the path of a folder", "model"
        )
    return folder
