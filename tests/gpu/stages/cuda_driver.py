"""Let a copy of the engine tests start CUDA engines without a variable: `cuda_driver.py COPY/tests/support/engine_driver.py`.

In a checkout `TRAIT_ENGINE_DEVICE=cuda` does the same.
"""

import argparse
import sys
from pathlib import Path

WITHOUT, WITH = 'DEFAULT_DEVICE = "cpu"', 'DEFAULT_DEVICE = "cuda"'


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("driver", type=Path, help="the driver; what is changed is engine_forms.py beside it")
    forms = parser.parse_args().driver.with_name("engine_forms.py")
    text = forms.read_text()
    if text.count(WITHOUT) != 1:
        sys.exit(f"{forms} has no line {WITHOUT}: it has changed, and so must this script")
    forms.write_text(text.replace(WITHOUT, WITH))


if __name__ == "__main__":
    main()
