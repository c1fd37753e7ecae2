"""vLLM's compilation on a GPU, forced on the CPU engine: the graph in pieces around attention, each compiled by Inductor.

vLLM's CPU platform turns that mode into a plain trace. The code that splits the graph and keeps one artifact for equal
pieces is the same on every platform.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Compilation:
    """A record of one engine's compilation; complete once the engine has started."""

    managers: list[Any] = field(default_factory=list)
    pieces: list[Any] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        """`n_compiled` pieces made `n_artifacts` different ones; `pieces`: the operations of each, in order."""
        return {
            "n_compiled": len(self.managers),
            "n_artifacts": sum(len(manager.loaded_artifacts) for manager in {id(m): m for m in self.managers}.values()),
            "pieces": [
                {"splits": piece.is_splitting_graph, "operations": _operations(piece.graph)} for piece in self.pieces
            ],
        }


def force() -> Compilation:
    """Force the mode on every engine that this process makes from now on."""
    from vllm.compilation import backends
    from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass
    from vllm.config import CompilationMode
    from vllm.platforms.cpu import CpuPlatform

    made = Compilation()
    configure = CpuPlatform.check_and_update_config.__func__
    compile_piece, split_graph = backends.CompilerManager.compile, backends.split_graph

    def configured(cls, config):
        configure(cls, config)
        compilation = config.compilation_config
        compilation.mode, compilation.backend, compilation.compile_sizes = CompilationMode.VLLM_COMPILE, "inductor", []

    def recorded_compile(self, *args, **kwargs):
        made.managers.append(self)
        return compile_piece(self, *args, **kwargs)

    def recorded_split(*args, **kwargs):
        whole, pieces = split_graph(*args, **kwargs)
        made.pieces += pieces
        return whole, pieces

    CpuPlatform.check_and_update_config = classmethod(configured)
    FixFunctionalizationPass.__call__ = lambda _self, _graph: None  # it names operations that exist on CUDA only
    backends.CompilerManager.compile, backends.split_graph = recorded_compile, recorded_split
    return made


def _operations(graph: Any) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function" and "." in str(node.target)]
