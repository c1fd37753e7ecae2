"""Remarks on files that are read although something in them is not used."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """One thing in a trait's file that is not used, or not used as it is written.

    Args:
        where: The file, or the folder.
        what: The remark; equal remarks on several files are printed once.
    """

    where: str
    what: str


def grouped(remarks: Iterable[Remark]) -> list[str]:
    """One sentence for each different remark: a field that 400 files have is reported once."""
    places: dict[str, dict[str, None]] = {}
    for remark in remarks:
        places.setdefault(remark.what, {})[remark.where] = None
    sentences = []
    for what, files in places.items():
        first, *others = files
        more = f" (and {len(others)} more such file{'s' if len(others) > 1 else ''})" if others else ""
        sentences.append(f"{first}{more}: {what}")
    return sentences
