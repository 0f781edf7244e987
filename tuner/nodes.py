"""The machines of a cluster: do all see the sweep's storage, and which of them are gone?"""

import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import PlacementGroupID
from ray._private.state import state  # nothing public tells who made a placement group
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyrefly: ignore
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.errors import ConfigError
from tuner.storage import Place

PATIENCE = 120.0
"""Seconds in which every node must answer; its first worker starts within a few."""


GRACE = 40.0
"""Seconds between the death of a trial and that of its machine, at most: the socket may close at
once, and Ray waits up to 25 (health checks: 5 at 3 s, 10 to answer) before it calls one dead."""


ROOM_PATIENCE = 1200.0
"""Seconds in which the first node must have room: an autoscaler asks its cloud for minutes."""
TOLD_EVERY = 30.0
"""Seconds between two lines that say what is waited for."""
START_PATIENCE = 30
"""Seconds that Ray gives its own first node (ray._private.node)."""
SLICE = 1.0
"""Seconds between two looks, and until Ctrl-C is heard."""


def connect(address: str | None, **own: Any) -> None:
    """Join the Ray at `address`, or start one of our own with the options `own`.

    Raises:
        ConfigError: ours did not come up in Ray's own time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # "local", not None: that would join any Ray that somebody runs on this machine.
    options: dict[str, Any] = (
        {"address": "local", **own} if address is None else {"address": address}
    )
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises no class of its own
        if "timed out during startup" not in str(error):
            raise
        raise ConfigError(
            f"Ray did not start within its {START_PATIENCE} s: this machine is busy or short of "
            "memory; end other work and run it again, or give --address"
        ) from None


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


def reclaim() -> int:
    """Free what actors of this job reserved and left when they died; how much is still theirs.

    Ray frees a placement group with its job, not with the actor that made it: the controller of a
    trial on several devices, which ends with its trial.
    """
    table, job = state._connect_and_get_accessor(), ray.get_runtime_context().get_job_id()
    made = map(PlacementGroupTableData.FromString, table.get_placement_group_table())
    held = [
        group
        for group in made
        if group.state != PlacementGroupTableData.REMOVED
        and group.creator_job_id.hex() == job
        and group.creator_actor_id.strip(b"\xff")
    ]
    for group in held:
        if group.creator_actor_dead:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return len(held)


@contextmanager
def room(shares: Sequence[dict[str, float]]) -> Iterator[list[PlacementGroup]]:
    """Hold each of `shares` of Ray's resources, once nodes have them to give.

    Raises:
        ConfigError: they had not for `ROOM_PATIENCE` seconds.
    """
    groups = [placement_group([share]) for share in shares]
    try:
        for group, share in zip(groups, shares, strict=True):
            _await_room(group, _amounts(share))
        yield groups
    finally:
        for group in groups:
            remove_placement_group(group)


def _await_room(group: PlacementGroup, asked: str) -> None:
    began, told = time.monotonic(), 0.0
    while not group.wait(SLICE):
        waited = time.monotonic() - began
        free = _amounts(ray.available_resources()) or "nothing"
        if waited > ROOM_PATIENCE:
            raise ConfigError(
                f"no node had room for one trial, {asked}, within {ROOM_PATIENCE:g} s; free in all "
                f"are {free}: start a node that has it, end what takes it, or lower "
                "resources.cpus_per_trial or resources.gpus_per_trial"
            )
        if waited > told:
            print(f"isoflop: waiting for a node with {asked}; free in all: {free}", file=sys.stderr)
            told = waited + TOLD_EVERY


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {resources[name]:g}" for name in ("CPU", "GPU") if name in resources)


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
