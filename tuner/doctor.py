"""Is this machine sound, and how fast? Each check says what it found and what mends it."""

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tuner import space
from tuner.config import Sweep
from tuner.ladder import Size
from tuner.provenance import version
from tuner.question import Question
from tuner.throughput import Measured

PYTHON = (3, 11)
MEMORY = 4
"""Least memory for two slots and Ray's object store, GiB."""
DISK = 2
"""Least free disk for a sweep's folder and corpora, GiB."""
FILES = 1024
"""Least open files for Ray on one machine; its clusters want 65,536."""
SWEEP_PACKAGES = ("torch", "ray", "optuna", "tensorboard", "tokenizers")
SHARED = 0.5
"""Least free shared memory for Ray's object store, GiB."""
EXTRAS = (
    ("data", "datasets", "TinyStories, OpenWebText and FineWeb-Edu by name"),
    ("huggingface", "transformers", "its architectures as models of one's own"),
    ("serve", "fastapi", "isoflop serve"),
)
"""Extra, the package that shows it, and what it is for."""
ON_A_CPU = ((1, 8), (1, 16), (1, 32), (2, 64), (2, 128))
ON_A_GPU = ((2, 128), (4, 256), (8, 512), (12, 768))
"""Layers and width of the models whose training speed is measured."""
BATCHES = {"cpu": (4, 64, 256), "cuda": (32, 512, 8192)}
"""Sequences a step, their tokens, and distinct tokens of those trainings."""
FLOPS = {"cpu": 5e9, "cuda": 1e13}
"""Of one of them, at least: a fifth of a second of a fast core, a tenth of a fast GPU."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    sound: bool
    found: str
    remedy: str = ""
    """The command or step that mends it; empty if sound."""
    value: float | None = None
    """The number found, where it is one."""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def examine() -> tuple[list[Check], Measured | None]:
    """Every check, the slow ones last, and what was measured of the device, if torch is there."""
    checks = list(_checks())
    if any(check.name == "packages" and not check.sound for check in checks):
        return checks, None
    found, measured = _speed()
    return [*checks, *found], measured


def _checks() -> Iterator[Check]:
    yield _at_least(
        "python", sys.version_info[0] + sys.version_info[1] / 100, 3.11, "python3.11 -m venv .venv"
    )
    missing = [name for name in SWEEP_PACKAGES if find_spec(name) is None]
    versions = ", ".join(f"{n} {version(n)}" for n in SWEEP_PACKAGES if n not in missing)
    yield Check(
        name="packages",
        sound=not missing,
        found=f"missing: {', '.join(missing)}" if missing else versions,
        remedy="pip install 'isoflop[sweep]'" if missing else "",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check(name="cores", sound=True, found=f"{cores}", value=float(cores or 1))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    more = "a machine with more memory, or resources.slots = 1"
    yield _at_least("memory", memory, MEMORY, more, " GiB")
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    yield _at_least("disk", disk, DISK, "free disk space, or another folder: --dir", " GiB free")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield _at_least("open files", files, FILES, "ulimit -n 65536")
    yield from _shared_memory()
    yield from _extras()


def _at_least(name: str, value: float, least: float, remedy: str, unit: str = "") -> Check:
    sound = value >= least
    found = (
        f"{value:.2g}" if unit and value < 10 else f"{value:.0f}" if value > 10 else f"{value:g}"
    )
    found += unit + ("" if sound else f", at least {least:g} is wanted")
    return Check(name=name, sound=sound, found=found, remedy="" if sound else remedy, value=value)


def _shared_memory() -> Iterator[Check]:
    """Ray's object store lies in /dev/shm, which containers often keep at 64 MiB."""
    place = Path("/dev/shm")
    if place.is_dir():
        free = shutil.disk_usage(place).free / 2**30
        yield _at_least("/dev/shm", free, SHARED, "docker run --shm-size=2g …", " GiB free")


def _extras() -> Iterator[Check]:
    """Packages that only some commands want: told, not demanded."""
    for extra, package, use in EXTRAS:
        there = find_spec(package) is not None
        found = f"{package} {version(package)}" if there else f"not installed: {use}"
        remedy = "" if there else f"pip install 'isoflop[{extra}]', if you want it"
        yield Check(name=extra, sound=True, found=found, remedy=remedy)


def _accelerator(torch_sees: bool) -> Iterator[Check]:
    """A GPU that the driver knows and torch does not."""
    if not torch_sees and shutil.which("nvidia-smi") is not None:
        yield Check(
            name="gpu", sound=False, found="the driver is there, this torch was built without CUDA",
            remedy="pip install --force-reinstall torch "
            "--index-url https://download.pytorch.org/whl/cu126",
        )  # fmt: skip


def _compiler() -> Check:
    """What makes trials on a CPU a fifth to a half faster (`model.between`)."""
    from model.compiling import complaint_between  # noqa: PLC0415

    told = complaint_between("float32")
    return Check(
        name="compiler", sound=True, found=f"none that works: {told}" if told else "for C++",
        remedy="install g++ or clang++, if CPU trials are to be a fifth to a half faster"
        if told else "",
    )  # fmt: skip


def _speed() -> tuple[list[Check], Measured]:
    """The device, its peak, and what real training makes of it, on one thread a slot."""
    import torch  # noqa: PLC0415  the checks above tell whether it is there

    from model.device import device_name, memory_bytes  # noqa: PLC0415
    from model.peak import peak_flops  # noqa: PLC0415

    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", "bfloat16") if gpu else ("cpu", "float32")
    torch.set_num_threads(1)
    peak = peak_flops(dtype, device)
    points = {width: training_speed(device, (n, width)) for n, width in sizes(device)}
    measured = Measured(
        date=datetime.now(UTC).date().isoformat(), device=device_name(device), gpu=gpu,
        memory=memory_bytes(device) / (1 if gpu else os.cpu_count() or 1), points=points,
    )  # fmt: skip
    told = ", ".join(f"{rate:.2g} at width {width}" for width, rate in points.items())
    return [
        *_accelerator(gpu),
        *([] if gpu else [_compiler()]),
        Check(name="device", sound=True, found=measured.device),
        Check(name="peak", sound=True, found=f"{peak:.3g} FLOP/s, {dtype}", value=peak),
        Check(
            name="training", sound=True, value=max(points.values()),
            found=f"FLOP/s a slot: {told}; kept for plans on this machine",
        ),
    ], measured  # fmt: skip


def sizes(device: str) -> tuple[Size, ...]:
    """Layers and width of what is timed."""
    return ON_A_GPU if device == "cuda" else ON_A_CPU


def training_speed(device: str, size: Size) -> float:
    """Training FLOP/s of the default recipe on random tokens, warm-up excluded."""
    from model.compiling import complaint_between  # noqa: PLC0415
    from model.execution import Execution  # noqa: PLC0415
    from model.train import Training  # noqa: PLC0415
    from tuner.backends.train import recipe  # noqa: PLC0415

    batch_size, context, vocab_size = BATCHES[device]
    asked = {"shapes": {"context_length": context}, "training": {"batch_size": batch_size}}
    sweep = Sweep.model_validate({"name": "doctor", "budgets": [FLOPS[device]], **asked})
    question = Question(budget=FLOPS[device], size=size, learning_rate=1e-2, number=0, seed=0)
    trial = space.trial(sweep, question, vocab_size)
    rng = np.random.default_rng(0)
    tokens = rng.integers(vocab_size, size=(batch_size, context + 1))
    steps = (5, 5 + max(5, trial.steps))
    compiled = device == "cpu" and not complaint_between("float32")
    training = Training(
        shape=trial.shape, steps=steps[-1], report_at=steps, batches=lambda _: tokens,
        recipe=recipe(sweep, trial, "bfloat16" if device == "cuda" else "float32"),
        held_out=[tokens[:2]], seed=0, flops_per_step=trial.flops_per_step,
        execution=Execution(device=device, compiled=compiled),
    )  # fmt: skip
    warm, done = training.run()
    return (done.flops - warm.flops) / (done.seconds - warm.seconds)
