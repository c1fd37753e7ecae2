"""The Triton kernel compiles for real GPUs, without one: Triton's compiler and ptxas, as CUDA users get them.

Run by `make test-triton`, which prints the table of registers.
"""

import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="make test-triton runs these")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import triton
from trait_core.schema import MAX_MONITORED
from trait_service.engine import kernel_monitor
from trait_service.engine.kernel_triton import MAX_REGISTERS, constants, intervene_kernel, n_warps
from trait_service.engine.request_table import Layout
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

N_LAYERS, N_TERMS = 32, 8
ARCHITECTURES = (80, 90, 100, 120)
WIDTHS = (576, 2048, 2304, 2880, 4096, 5120, 8192, 12288, 16384)
if os.environ.get("TRAIT_TRITON_SHORT"):
    WIDTHS = WIDTHS[::3]
SIZES = {"bf16": 2, "fp16": 2, "fp32": 4}
TENSORS = {
    **dict.fromkeys(("active", "flags", "table", "open_gates"), "*i32"),
    **dict.fromkeys(("bank", "pools"), "*fp32"),
    "held": "*i64",
}
MONITOR_TENSORS = {**dict.fromkeys(("tiles", "sets", "most"), "*i32"), **dict.fromkeys(("bank", "values"), "*fp32")}
NUMBERS = ("layer", "residual_stride", "hidden_stride")


def compiled(kernel: triton.JITFunction, capability: int, kinds: dict[str, str], fixed: dict, options: dict):
    """As a launch compiles it: pointers and strides are known to be multiples of 16, the layer is not."""
    names = kernel.arg_names
    assert set(names) == kinds.keys() | fixed.keys()
    aligned = [i for i, name in enumerate(names) if name in kinds and name != "layer"]
    source = ASTSource(
        fn=kernel,
        signature={name: kinds.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def compiled_steering(capability: int, dtype: str, d_model: int, **form: int):
    """The kernel that steers and captures."""
    fixed = constants(Layout(N_LAYERS, N_TERMS), d_model, SIZES[dtype], **form)
    kinds = {**TENSORS, **dict.fromkeys(("residual", "hidden"), f"*{dtype}"), **dict.fromkeys(NUMBERS, "i32")}
    options = {"num_warps": n_warps(d_model, SIZES[dtype]), "maxnreg": MAX_REGISTERS}
    return compiled(intervene_kernel, capability, kinds, fixed, options)


def compiled_monitor(capability: int, dtype: str, d_model: int, *, has_hidden: bool):
    """The kernel that monitors."""
    fixed = kernel_monitor.constants(N_LAYERS, N_LAYERS + 1 + MAX_MONITORED, d_model, has_hidden=has_hidden)
    kinds = {**MONITOR_TENSORS, **dict.fromkeys(("residual", "hidden"), f"*{dtype}"), **dict.fromkeys(NUMBERS, "i32")}
    options = {"num_warps": kernel_monitor.n_warps(d_model), "maxnreg": MAX_REGISTERS}
    return compiled(kernel_monitor.monitor_kernel, capability, kinds, fixed, options)


def resources(capability: int, ptx: str, folder: Path) -> tuple[int, int]:
    """Registers of a thread, and bytes that it spills, from ptxas."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    path = folder / "kernel.ptx"
    path.write_text(ptx)
    ptxas = tools / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    target = f"sm_{capability}{'a' if capability >= 90 else ''}"
    command = [ptxas, "-v", f"-arch={target}", path, "-o", folder / "kernel.cubin"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    (registers,) = re.findall(r"Used (\d+) registers", said)
    (spilled,) = re.findall(r"(\d+) bytes spill stores", said)
    return int(registers), int(spilled)


def spill_allowance(dtype: str, d_model: int) -> int:
    """A float32 stream wider than 8192 takes all registers of a multiprocessor; no model in use has one."""
    return 64 if dtype == "fp32" and d_model > 8192 else 0


@pytest.mark.parametrize("capability", ARCHITECTURES)
@pytest.mark.parametrize("d_model", WIDTHS)
def test_it_compiles_without_doubles_and_stays_in_registers(capability, d_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for dtype, size in SIZES.items():
        for has_hidden, n_kinds in [(True, 2), *([(False, 2), (True, 1)] if capability == 90 else [])]:
            made = compiled_steering(capability, dtype, d_model, has_hidden=has_hidden, n_kinds=n_kinds)
            registers, spilled = resources(capability, made.asm["ptx"], tmp_path)
            print(
                f"sm_{capability} d_model {d_model:5} {dtype} {'pair' if has_hidden else 'one '} "
                f"{'deferred' if n_kinds == 2 else 'at once '} warps {n_warps(d_model, size):2} registers {registers:3} "
                f"spilled {spilled:2} shared {made.metadata.shared:5}"
            )
            assert ".f64" not in made.asm["ptx"]
            assert registers <= MAX_REGISTERS
            assert spilled <= spill_allowance(dtype, d_model)


@pytest.mark.parametrize("capability", ARCHITECTURES)
def test_the_monitoring_kernel_compiles_without_doubles_and_stays_in_registers(capability, tmp_path, monkeypatch):
    """Four tokens of a stream, and two directions, in registers; of the widest streams one token."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for dtype, d_model, has_hidden in itertools.product(SIZES, (576, 2048, 4096, 8192, 16384), (True, False)):
        if not has_hidden and capability != 90:
            continue
        made = compiled_monitor(capability, dtype, d_model, has_hidden=has_hidden)
        registers, spilled = resources(capability, made.asm["ptx"], tmp_path)
        print(
            f"sm_{capability} monitor d_model {d_model:5} {dtype} {'pair' if has_hidden else 'one '} "
            f"warps {kernel_monitor.n_warps(d_model):2} registers {registers:3} spilled {spilled:2} shared {made.metadata.shared:5}"
        )
        assert ".f64" not in made.asm["ptx"]
        assert registers <= MAX_REGISTERS
        assert spilled <= (16 if dtype == "fp32" or d_model > 8192 else 0)
        assert made.metadata.shared <= 48 * 1024, "more than one program fits a multiprocessor"
