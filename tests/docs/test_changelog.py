"""The changelog is short enough to be read: versions with a date, entries of at most 25 words."""

import re
from pathlib import Path

CHANGELOG = (Path(__file__).resolve().parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_entry_has_more_than_25_words():
    entries = re.findall(r"^- (.+(?:\n  .+)*)", CHANGELOG, re.MULTILINE)
    assert len(entries) > 20
    assert [entry for entry in entries if len(entry.split()) > 25] == []


def test_every_released_version_has_a_date_and_unreleased_comes_first():
    versions = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", CHANGELOG, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert all(date for _, date in versions[1:])


def test_the_newest_released_version_is_the_packages():
    import trait_client

    newest = re.findall(r"^## \[(\d.+?)\]", CHANGELOG, re.MULTILINE)[0]
    assert newest == trait_client.__version__
