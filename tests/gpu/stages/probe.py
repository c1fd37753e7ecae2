"""Probe the machine: card, versions, the plugin's entry points, and vLLM's own kernels against torch: `probe.py`."""

import argparse
import math
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import bare
import imports
from stage import Context

GROUPS = ("vllm.general_plugins", "vllm.endpoint_plugins")
LARGEST_ERROR = 1e-2
"""Largest norm of a bfloat16 kernel's error, relative to the result's."""
HEADS = ((64, 9, 3), (128, 32, 8), (256, 4, 1))
"""Size of a head, heads, key-value heads."""


def probe(context: Context, found: bare.Lines) -> None:
    """Everything, one after another; a part that fails stops no other."""
    parts: dict[str, Callable[[], None]] = {
        "imports": lambda: imports.run(context, found),
        "entry points": lambda: _entry_points(found),
    }
    if context.cuda:
        parts |= {"norm": lambda: _norm(found), "activation": lambda: _activation(found)}
        parts |= {f"attention, heads of {heads[0]}": lambda heads=heads: _attention(found, *heads) for heads in HEADS}
    for name, part in parts.items():
        try:
            part()
        except Exception as error:  # noqa: BLE001 - whatever a library raised is this part's result
            found.check(False, f"{name}: {type(error).__name__}: {error}")


def _entry_points(found: bare.Lines) -> None:
    for group in GROUPS:
        names = [entry.name for entry in entry_points(group=group)]
        found.row("entry points", group=group, names=names)
        found.check("trait_steering" in names, f"{group} has no trait_steering among {names}")


def _random(*shape: int) -> Any:
    import torch

    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _equal(found: bare.Lines, name: str, got: Any, expected: Any) -> None:
    size = float(expected.float().norm())
    error = float((got.float() - expected.float()).norm()) / size if size else float("inf")  # nothing was computed
    found.row("vLLM's kernels against torch", kernel=name, **{"relative error": error})
    found.check(error <= LARGEST_ERROR, f"{name}: relative error {error:.2g}")  # NaN fails too


def _norm(found: bare.Lines) -> None:
    """The sum that it writes back is what the next layer reads."""
    import torch
    import vllm._custom_ops as ops

    hidden, residual, weight = _random(37, 576), _random(37, 576), _random(576)
    total = (hidden.float() + residual.float()).bfloat16().float()
    ops.fused_add_rms_norm(hidden, residual, weight, 1e-5)
    normed = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-5) * weight.float()
    _equal(found, "fused_add_rms_norm, its sum", residual, total)
    _equal(found, "fused_add_rms_norm", hidden, normed)


def _activation(found: bare.Lines) -> None:
    import torch
    import vllm._custom_ops  # noqa: F401 - registers them

    both = _random(37, 3072)
    out = both.new_empty(37, 1536)
    torch.ops._C.silu_and_mul(out, both)
    gate, up = both.float().chunk(2, -1)
    _equal(found, "silu_and_mul", out, torch.nn.functional.silu(gate) * up)


def _attention(found: bare.Lines, size: int, n_heads: int, n_kv_heads: int) -> None:
    """One sequence in a paged cache, through vLLM's FlashAttention."""
    import torch
    import vllm._custom_ops as ops
    from vllm.vllm_flash_attn import flash_attn_varlen_func

    n, block = 150, 16
    n_blocks = math.ceil(n / block)
    query, key, value = _random(n, n_heads, size), _random(n, n_kv_heads, size), _random(n, n_kv_heads, size)
    cache = torch.zeros(2, n_blocks + 2, block, n_kv_heads, size, device="cuda", dtype=torch.bfloat16)
    table = torch.arange(2, n_blocks + 2, device="cuda", dtype=torch.int32)[None]
    slots = torch.arange(2 * block, 2 * block + n, device="cuda")
    scale = torch.ones((), device="cuda")
    ops.reshape_and_cache_flash(key, value, cache[0], cache[1], slots, "auto", scale, scale)
    _equal(found, f"reshape_and_cache_flash, heads of {size}", cache[0].flatten(0, 1)[slots], key)
    got = flash_attn_varlen_func(
        q=query,
        k=cache[0],
        v=cache[1],
        max_seqlen_q=n,
        max_seqlen_k=n,
        cu_seqlens_q=torch.tensor([0, n], device="cuda", dtype=torch.int32),
        seqused_k=torch.tensor([n], device="cuda", dtype=torch.int32),
        softmax_scale=1 / math.sqrt(size),
        causal=True,
        block_table=table,
        fa_version=3 if torch.cuda.get_device_capability()[0] == 9 else 2,
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(part.float().transpose(0, 1) for part in (query, key, value)), is_causal=True, enable_gqa=True
    ).transpose(0, 1)
    _equal(found, f"FlashAttention, heads of {size}", got, expected)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    found = bare.report("probe")
    bare.run(found, lambda: probe(bare.context("", given.device, limit_s=110), found))


if __name__ == "__main__":
    main()
