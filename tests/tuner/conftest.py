"""Sweeps small enough to run many of, and one local Ray."""

import pytest
from small import SMALL

from tuner.config import Sweep, parse

# Nothing learned, nothing cut, nothing added: the whole table is a function of the sweep.
SETTLED = {
    "search": {"sampler": "qmc", "warm_start": False, "extend": False},
    "pruning": {"enabled": False},
}


@pytest.fixture
def small():
    """A function from settings to a small sweep on a law."""

    def make(**settings) -> Sweep:
        table = {**SMALL, **settings}
        for name, section in SMALL.items():
            if isinstance(section, dict) and name in settings:
                table[name] = {**section, **settings[name]}
        return parse(table, place="small.toml")

    return make


@pytest.fixture
def settled(small):
    """A function from settings to a small sweep whose table no timing can change."""

    def make(**settings) -> Sweep:
        merged = {**SETTLED, **settings}
        merged["search"] = {**SETTLED["search"], **settings.get("search", {})}
        return small(**merged)

    return make


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory):
    """Two slots and a pretended GPU on this machine, on loopback."""
    import ray

    ray.init(
        "local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(tmp_path_factory.mktemp("ray")),
    )
    yield
    ray.shutdown()
