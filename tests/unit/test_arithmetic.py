"""Each operation against its closed form."""

import pytest
import torch
from trait_service.engine.arithmetic import coefficients, delta
from trait_service.engine.spec import TermSpec

D_MODEL = 8


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(5, D_MODEL, generator=generator) * 3
    direction = torch.randn(D_MODEL, generator=generator)
    return stream, (direction / direction.norm()).expand(5, -1)


def apply(stream, direction, operation, value, preserve_norm=False):
    term = TermSpec(layer=0, direction="0" * 64, operation=operation, value=value, preserve_norm=preserve_norm)
    mode, a, b = coefficients(term)
    n = len(stream)
    return stream + delta(
        stream,
        direction,
        torch.full((n,), a),
        torch.full((n,), b),
        torch.full((n,), mode),
    )


def projection(stream, direction):
    return (stream * direction).sum(-1)


def test_add_moves_every_token_by_the_coefficient_along_the_direction(tokens):
    stream, d = tokens
    torch.testing.assert_close(apply(stream, d, "add", 2.5), stream + 2.5 * d)


def test_ablate_leaves_no_projection_and_nothing_else_changes(tokens):
    stream, d = tokens
    after = apply(stream, d, "ablate", 123.0)
    torch.testing.assert_close(projection(after, d), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(after + projection(stream, d)[:, None] * d, stream)


def test_set_and_scale_act_on_the_projection(tokens):
    stream, d = tokens
    torch.testing.assert_close(projection(apply(stream, d, "set", 1.75), d), torch.full((5,), 1.75))
    torch.testing.assert_close(projection(apply(stream, d, "scale", -0.5), d), -0.5 * projection(stream, d))


def test_floor_and_ceiling_move_only_the_tokens_beyond_the_limit(tokens):
    stream, d = tokens
    before = projection(stream, d)
    torch.testing.assert_close(projection(apply(stream, d, "floor", 0.3), d), before.clamp(min=0.3))
    torch.testing.assert_close(projection(apply(stream, d, "ceiling", 0.3), d), before.clamp(max=0.3))


def test_replace_makes_every_stream_the_same(tokens):
    stream, d = tokens
    torch.testing.assert_close(apply(stream, d, "replace", -2.5), -2.5 * d)
    kept = apply(stream, d, "replace", -2.5, preserve_norm=True)
    torch.testing.assert_close(kept, -stream.norm(dim=-1, keepdim=True) * d)


@pytest.mark.parametrize("angle", [0.0, 25.0, -40.0, 90.0, 180.0])
def test_rotate_turns_by_the_angle_in_the_plane_of_stream_and_direction(tokens, angle):
    stream, d = tokens
    after = apply(stream, d, "rotate", angle)
    torch.testing.assert_close(after.norm(dim=-1), stream.norm(dim=-1))
    between = torch.nn.functional.cosine_similarity(after, stream)
    torch.testing.assert_close(between, torch.full((5,), angle).deg2rad().cos(), atol=1e-5, rtol=0)
    outside = torch.stack(
        [
            torch.linalg.lstsq(torch.stack([s, v], 1), t[:, None]).residuals
            for s, v, t in zip(stream, d, after, strict=True)
        ]
    )
    torch.testing.assert_close(outside, torch.zeros_like(outside), atol=1e-4, rtol=0)
    nearer = torch.nn.functional.cosine_similarity(after, d) > torch.nn.functional.cosine_similarity(stream, d)
    if 0 < angle < 60:
        assert nearer.all()
    if -60 < angle < 0:
        assert not nearer.any()


def test_a_stream_along_the_direction_is_not_turned(tokens):
    _, d = tokens
    for stream in (3.0 * d, -3.0 * d, torch.zeros_like(d)):
        torch.testing.assert_close(apply(stream, d, "rotate", 45.0), stream)


def test_preserve_norm_turns_the_stream_without_stretching_it(tokens):
    stream, d = tokens
    after = apply(stream, d, "add", 4.0, preserve_norm=True)
    torch.testing.assert_close(after.norm(dim=-1), stream.norm(dim=-1))
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(after, stream + 4.0 * d), torch.ones(5), atol=1e-5, rtol=0
    )
