"""The Triton kernel against the torch reference, or its times: `kernels.py check|bench` (`KERNELS_WIDTHS=576,640`).

No package: transformers looks for one of this name, and takes a file without a version for none.
"""

import argparse
import os

DEFAULT_WIDTHS = "24,576,640,2048,4096,5120,8192"
LIMIT_S = 140


def main() -> None:
    """Command line."""
    import bare
    import kernels_on_device

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("check", "bench"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    found = bare.report(f"kernels {given.task}", silent=frozenset({kernels_on_device.COMPARED}))
    here = bare.context("", given.device, LIMIT_S)
    widths = [int(width) for width in os.environ.get("KERNELS_WIDTHS", DEFAULT_WIDTHS).split(",")]
    tasks = {
        "check": lambda: kernels_on_device.compare_all(here, found, widths, workers=2),
        "bench": lambda: kernels_on_device.measure_all(found),
    }
    bare.run(found, tasks[given.task])


if __name__ == "__main__":
    main()
