"""What `ray submit` sends along: `isoflop run`, on the head, on the cluster that is there.

ray submit cluster/config.yaml cluster/submit.py SWEEP.toml [options of isoflop run]
"""

import subprocess
import sys


def main() -> int:
    """Run the sweep and end as it does."""
    command = ["isoflop", "run", *sys.argv[1:], "--yes", "--address", "auto"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
