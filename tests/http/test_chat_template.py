"""What the service says of a model's chat template, found with vLLM's renderer and no engine."""

from pathlib import Path

import pytest
from template_models import STRICT, with_template
from trait_service.reading.chat_template import ChatTemplate

THINKING = """\
{%- set style = style | default('plain') -%}
{%- if enable_thinking is defined and not enable_thinking %}{{ strftime_now('%d') }}{% endif -%}
{%- set found = namespace(n=0) -%}
{{ bos_token }}{% for message in messages %}{{ message.content }}{{ style }}{% endfor %}
{%- if add_generation_prompt and tools %}{% generation %}x{% endgeneration %}{% endif -%}
"""


def template_of(folder: Path) -> ChatTemplate:
    from vllm.config import ModelConfig, VllmConfig
    from vllm.renderers import renderer_from_config
    from vllm.renderers.online_renderer import OnlineRenderer

    config = VllmConfig(model_config=ModelConfig(model=str(folder), dtype="float32", max_model_len=512))
    renderer = renderer_from_config(config)
    return ChatTemplate(
        OnlineRenderer(
            config.model_config, renderer, request_logger=None, chat_template=None, chat_template_content_format="auto"
        )
    )


@pytest.mark.parametrize(
    ("template", "exists", "variables"),
    [
        (None, False, []),
        ("{{ messages[0].content }}", True, []),
        (STRICT, True, ["enable_thinking"]),
        (THINKING, True, ["enable_thinking", "style"]),
        ("{% if %}", True, None),
    ],
)
def test_a_template_and_its_variables_are_found(smollm2_path, tmp_path, template, exists, variables):
    """Constants, functions, special tokens, and what the service sets itself are no variables; a broken template is one."""
    found = template_of(with_template(smollm2_path, tmp_path / "model", template))
    assert (found.exists, found.variables) == (exists, variables)
