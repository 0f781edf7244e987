"""A sweep in a process of its own, to be watched, killed and resumed."""

import subprocess
import sys
import time
from pathlib import Path

from tuner.ledger import Ledger

ENDED = ("completed", "pruned", "failed")


class Running:
    """`isoflop` with arguments, its output in `log`."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tuner.cli", *arguments],
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_for(self, folder: Path, ended: int) -> None:
        """Until so many trials of the sweep in `folder` ended, or it did."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if sum(count for name, count in counts(folder).items() if name in ENDED) >= ended:
                return
            time.sleep(0.05)
        raise AssertionError(f"{folder}: {ended} trials never ended:\n{self.log.read_text()}")

    def workers(self) -> list[int]:
        """Process ids of the actors that run trials, among our descendants."""
        return [pid for pid in descendants(self.process.pid) if _is_trial(pid)]

    def output(self) -> str:
        """Everything it said, once it is over."""
        self.process.wait(timeout=240)
        return self.log.read_text()


def counts(folder: Path) -> dict[str, int]:
    """Trials by status in the ledger of `folder`; nothing where there is none."""
    if not (folder / "ledger.db").exists():
        return {}
    ledger = Ledger(folder / "ledger.db")
    found = ledger.counts()
    ledger.close()
    return found


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _is_trial(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_text().startswith("ray::ImplicitFunc")
    except OSError:
        return False
