"""What a device has: its name and its memory."""

import os
import platform
from pathlib import Path

import torch

LIMITS = (  # of this control group: cgroup v2, then v1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def device_name(device: str) -> str:
    """The GPU's name, or the processor's architecture."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"


def memory_bytes(device: str) -> int:
    """All the memory of `device`, byte; of a CPU, what its container allows."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *(limit for path in LIMITS if (limit := _limit(path)))])


def _limit(path: Path) -> int:
    """The bytes written in `path`; 0 if it is not there or sets no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
