"""The machines of a cluster: do all see the sweep's storage, and which of them are gone?"""

import math
import time
import uuid

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.config import ConfigError
from tuner.storage import Place

PATIENCE = 120.0
"""Seconds in which every node must answer; its first worker starts within a few."""


GRACE = 40.0
"""Seconds between the death of a trial and that of its machine, at most: the socket may close at
once, and Ray waits up to 25 (health checks: 5 at 3 s, 10 to answer) before it calls one dead."""


class Losses:
    """When machines of the cluster were lost, as far as Ray has noticed."""

    def __init__(self) -> None:
        self._alive: set[str] = set()
        self._last = -math.inf

    @property
    def possible(self) -> bool:
        """There are, or were, other machines than this one, when last looked."""
        return len(self._alive) > 1 or not math.isinf(self._last)

    def look(self) -> None:
        """Notice what is gone."""
        alive = _alive()
        if self._alive - alive:
            self._last = time.monotonic()
        self._alive = alive

    def explain(self, died: float) -> bool | None:
        """Was a machine lost around that time? None: it is too early to say.

        Which machine does not matter: a trial that died beside a lost machine is let off.
        """
        if self._last >= died - GRACE:
            return True
        return False if time.monotonic() > died + GRACE else None


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def check_seen(place: Place) -> None:
    """Make sure that every machine of the cluster sees `place`; who comes later is not asked.

    Raises:
        ConfigError: which do not, or it cannot be written to at all.
    """
    marker = place / f".seen-{uuid.uuid4().hex}"
    try:
        marker.write(b"seen")
        blind = _blind(marker)
        marker.remove()
    except OSError as error:
        raise ConfigError(f"{place}: cannot be used ({error}); see cluster/README.md") from None
    if blind:
        raise ConfigError(
            f"{place}: not seen by {', '.join(blind)}; name a folder on storage that all machines "
            "share with --dir, or give --storage s3://BUCKET/PREFIX"
        )


def _blind(marker: Place) -> list[str]:
    """Addresses of the machines that do not see `marker`."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return []
    look = ray.remote(num_cpus=0, max_retries=0)(_sees)
    asked = {
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(marker): node["NodeManagerAddress"]
        for node in nodes
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)
    return sorted(address for ref, address in asked.items() if ref in answered and not _got(ref))


def _got(answer: "ray.ObjectRef[bool]") -> bool:
    try:
        return ray.get(answer)
    except RayError:
        return False


def _sees(marker: Place) -> bool:
    return marker.read() is not None
