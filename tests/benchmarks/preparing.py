"""Memory and seconds of preparing a text file that is larger than the memory allowed for it.

The text is the running Python's own library over and over, its files in another order each time.
`isoflop data prepare` gets 2 GiB of address space (RLIMIT_AS, which each process it starts
inherits); the peak is of the resident memory of its whole process tree, looked at every 50 ms.
Prints it on stderr and one line of JSON on stdout. Linux.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from throughput import provenance

LIMIT = 2 << 30


def write(path, size):
    """`size` bytes of text."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(root.rglob("*.py"))
    kept = [file for file in files if not {"site-packages", "test"} & set(file.parts)]
    texts = [file.read_bytes() for file in kept]
    rng = random.Random(0)
    with path.open("wb") as file:
        while size:
            rng.shuffle(texts)
            for text in texts:
                size -= file.write(text[:size])


def resident(pid):
    """Bytes of a process and of all that it started; 0 once it has ended."""
    process = Path(f"/proc/{pid}")
    try:
        pages = int((process / "statm").read_text().split()[1])
        children = [task.read_text().split() for task in process.glob("task/*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * resource.getpagesize() + sum(resident(int(c)) for some in children for c in some)


def measure(source, folder, tokenizer):
    """Peak bytes, seconds, and how the preparation ended."""
    begin, peak = time.perf_counter(), 0
    asked = ["data", "prepare", str(source), "--tokenizer", tokenizer, "--dir", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner.cli", *asked], stdout=subprocess.DEVNULL
    )
    resource.prlimit(process.pid, resource.RLIMIT_AS, (LIMIT, LIMIT))  # while it still starts
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.05)
    return peak, time.perf_counter() - begin, process.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of text")
    parser.add_argument("--folder", type=Path, help="for text and corpora; needs about 1.6 of it")
    parser.add_argument("--tokenizer", default="bpe:4096", help="byte, or bpe:SIZE")
    arguments = parser.parse_args()
    size = round((0.1 if arguments.quick else arguments.gigabytes) * 1e9)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = Path(folder) / "text.txt"
        write(source, size)
        peak, seconds, code = measure(source, Path(folder) / "corpora", arguments.tokenizer)
    print(f"{peak / 2**20:.0f} MiB, {seconds:.1f} s, exit {code}", file=sys.stderr)
    figures = {"tokenizer": arguments.tokenizer, "bytes": size, "limit_mib": LIMIT >> 20}
    figures |= {"peak_mib": round(peak / 2**20), "seconds": round(seconds, 1), "exit": code}
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
