"""The CUDA side of the plugin never imports vLLM's CPU worker, which replaces torch's CUDA streams and events in the process."""

import subprocess
import sys
import textwrap


def test_the_cuda_worker_leaves_torchs_streams_and_events_alone():
    code = """
        import sys
        import torch

        kept = (torch.cuda.Stream, torch.cuda.Event, torch.Event, torch.cuda.current_stream, torch.cuda.stream, torch.Tensor.pin_memory)
        import trait_service.engine.worker_cuda as module

        now = (torch.cuda.Stream, torch.cuda.Event, torch.Event, torch.cuda.current_stream, torch.cuda.stream, torch.Tensor.pin_memory)
        assert all(before is after for before, after in zip(kept, now, strict=True)), "torch was changed"
        assert torch.cuda.Stream.__module__.startswith("torch"), torch.cuda.Stream
        assert "vllm.v1.worker.cpu.shm" not in sys.modules
        assert [base.__name__ for base in module.TraitCUDAWorker.__mro__].count("Worker") == 1
        print("whole")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("whole"), done.stderr[-3000:]


def test_the_cpu_worker_would_be_noticed():
    """The check above sees what it is for."""
    code = "import torch; kept = torch.cuda.Stream; import trait_service.engine.worker_cpu; print(kept is torch.cuda.Stream)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
