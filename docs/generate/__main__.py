"""Writes docs/reference: `make docs`."""

from reference import FOLDER, pages

for name, text in pages().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"docs/reference/{name}")
