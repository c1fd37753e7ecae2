"""The client is light: it imports, installs and starts without torch, vllm, transformers or scikit-learn."""

import subprocess
import sys

from wheel_harness import IMPORT_ALL


def test_no_module_of_the_client_imports_the_engine_or_the_extraction():
    """Every module is imported in a process that cannot import those packages."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    n_modules, *heavy = done.stdout.split()
    assert int(n_modules) > 10
    assert heavy == []
