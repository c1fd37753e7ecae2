"""Exit 0 if the server of this container is ready. Standard library only; readiness needs no key.

python probe.py [PATH]      PATH: /v1/health/ready unless given
"""

import sys
import urllib.error
import urllib.request

PORT = 8000


def main() -> None:
    """Ask once."""
    path = sys.argv[1] if len(sys.argv) > 1 else "/v1/health/ready"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=4):
            pass
    except (urllib.error.URLError, OSError) as error:
        sys.exit(f"not ready: {error}")


if __name__ == "__main__":
    main()
