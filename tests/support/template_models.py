"""Copies of a model with another chat template, or none."""

import json
import os
from pathlib import Path

STRICT = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
<{{ message.role }}> {{ message.content }}
{% endfor -%}
{%- if add_generation_prompt -%}<assistant> {% if enable_thinking is defined and not enable_thinking -%}
I need not think about it. {% endif -%}{%- endif -%}
"""
"""Refuses system prompts and roles that do not take turns, and writes a sentence where thinking is off."""


def with_template(source: Path, folder: Path, template: str | None) -> Path:
    """Link a model's files into a new folder, with a tokenizer that has this chat template and no pad token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template, tokenizer.pad_token = template, None
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    for path in source.glob("*.safetensors"):
        os.link(path, folder / path.name)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    return folder
