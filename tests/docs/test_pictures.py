"""The pictures of the dashboard show the dashboard that is here."""

import json

from pictures import NOTE, PICTURES, ROOT, inputs_digest, sha256

NOTED = json.loads(NOTE.read_text(encoding="utf-8"))


def test_the_pictures_were_taken_after_the_last_change_of_the_dashboard():
    assert NOTED["inputs"] == inputs_digest(), "the dashboard has changed since: make demo && make screenshots"


def test_each_picture_is_there_in_light_and_dark_as_it_was_taken():
    names = {f"{name}-{scheme}.png" for name in PICTURES for scheme in ("light", "dark")}
    assert set(NOTED["pictures"]) == names == {path.name for path in (ROOT / "docs").glob("dashboard-*.png")}
    for name, digest in NOTED["pictures"].items():
        assert sha256((ROOT / "docs" / name).read_bytes()) == digest, f"{name} was not taken by make screenshots"


def test_the_pages_show_them_all():
    shown = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "docs/howto-dashboard.md").read_text(
        encoding="utf-8"
    )
    assert all(name in shown for name in NOTED["pictures"])
