"""docs/reference says what the programs say of themselves."""

import sys

import pytest
import reference


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    pytest.importorskip("vllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_PLUGINS", "trait_steering")
        return reference.pages()


def test_the_reference_is_up_to_date(pages):
    written = {path.name: path.read_text() for path in reference.FOLDER.glob("*.md")}
    assert set(written) == set(pages), "make docs, and delete what is no more"
    stale = [name for name, text in pages.items() if written[name] != text]
    assert stale == [], "make docs"


def test_every_field_of_steering_is_described(pages):
    from trait_core.schema import SteeringTerm

    section = pages["http.md"].partition("#### SteeringTerm")[2].partition("####")[0]
    for name in SteeringTerm.model_fields:
        row = next(line for line in section.splitlines() if line.startswith(f"| `{name}` "))
        assert row.split(" | ")[2].strip(), row


def test_nothing_of_this_machine_is_in_it(pages):
    for name, text in pages.items():
        assert sys.prefix not in text, name
        assert "/root" not in text, name
