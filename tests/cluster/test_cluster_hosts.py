"""`ray up`, `exec`, `submit`, `job submit`, `down` for real, on three machines made of namespaces.

python -m pytest -m hosts tests/cluster        # root, some minutes, what hosts.py needs
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
import yaml
from hosts import Hosts, run
from ray.cluster_utils import Cluster

from analysis import runs
from tuner.config import parse

pytestmark = [pytest.mark.hosts, pytest.mark.ray, pytest.mark.slow]

REAL = {
    "name": "real", "budgets": [3e9, 1e10],
    "data": {"source": "python-stdlib", "max_bytes": 4_000_000, "held_out_tokens": 8192},
    "shapes": {"ladder": [[1, 8], [1, 16], [1, 24], [1, 32]]},
    "search": {"trials": 3, "sampler": "qmc", "warm_start": False, "extend": False},
    "pruning": {"enabled": False}, "cap": {"flops": 1e13},
}  # fmt: skip
COLORS = re.compile(r"\x1b\[[0-9;]*m")
DASHBOARD = 18265 + os.getpid() % 500


class Laptop:
    """Where commands are typed: a home with a token, a checkout, a yaml with the addresses."""

    def __init__(self, hosts, root):
        self.folder = hosts.base / "laptop"
        (self.folder / "home").mkdir(parents=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "HOME": str(self.folder / "home"), "RAY_AUTH_MODE": "token",
            "RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        checkout = self.folder / "isoflop"
        run("git", "clone", "--quiet", str(root), str(checkout))
        self.checkout = checkout
        config = yaml.safe_load((checkout / "cluster" / "local.yaml").read_text())
        config["provider"].update(
            head_ip=hosts.all[0].address, worker_ips=[h.address for h in hosts.all[1:]]
        )
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.base / "key")}
        for name in ("head_start_ray_commands", "worker_start_ray_commands"):  # a small machine
            config[name] = [
                c.replace("ray start", "ray start --object-store-memory=100000000")
                for c in config[name]
            ]
        config["worker_start_ray_commands"][-1] += " --num-cpus=1"
        self.yaml = checkout / "cluster" / "hosts.yaml"
        self.yaml.write_text(yaml.safe_dump(config))
        self.said = []
        self.ray("get-auth-token", "--generate")

    def ray(self, *words, within=600):
        """Type `ray …`; what it said."""
        began = time.monotonic()
        done = subprocess.run(
            ["ray", *words], cwd=self.checkout, env=self.environment, text=True, timeout=within,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        self.said.append(f"$ ray {' '.join(words)}   # {time.monotonic() - began:.0f} s")
        assert done.returncode == 0, f"{self.said[-1]}\n{done.stdout}"
        return COLORS.sub("", done.stdout)

    def on_head(self, command):
        return self.ray("exec", str(self.yaml), command)


@pytest.fixture(scope="module")
def hosts():
    made = Hosts(Path("/var/tmp") / f"isohosts{os.getpid()}")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def laptop(hosts, root):
    typed = Laptop(hosts, root)
    typed.ray("up", "-y", str(typed.yaml))
    deadline = time.monotonic() + 300
    count = "python -c \"import ray; ray.init('auto', log_to_driver=False); "
    count += "print('machines:', sum(n['Alive'] for n in ray.nodes()))\""
    while "machines: 3" not in typed.on_head(count):
        assert time.monotonic() < deadline, "the workers never came"
        time.sleep(5)
    yield typed
    typed.ray("down", "-y", str(typed.yaml))
    print("\n".join(typed.said))


def table(folder):
    """The run table but for time, place and commit."""
    found = pd.read_parquet(folder / "trials.parquet")
    return found.drop(columns=[*runs.VOLATILE, "commit"])


def written(path):
    sweep = parse(REAL, place="")
    path.write_text(tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True)))
    return path


def here(tmp_path, name, *options):
    """The sweep run by this machine."""
    folder = tmp_path / name / "real"
    done = subprocess.run(
        [sys.executable, "-m", "tuner.cli", "run", str(written(tmp_path / "real.toml")), "--yes",
         "--dir", str(folder), *options],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert (folder / "trials.parquet").exists(), done.stderr
    return table(folder)


def test_exec_and_submit(laptop):
    assert "ok   packages" in laptop.on_head("isoflop doctor")
    said = laptop.ray(
        "submit", str(laptop.yaml), "cluster/submit.py",
        "/root/isoflop/tuner/sweeps/law.toml", "--dir", "/root/runs/law",
        "--storage", "/mnt/shared", "-s", "budgets=[1e17,1e18]", "-s", "search.trials=2",
    )  # fmt: skip
    assert "/root/runs/law/report.html" in said


def test_a_real_sweep_survives_a_machine_and_its_table_is_any_machine_s(hosts, laptop, tmp_path):
    written(hosts.base / "shared" / "real.toml")
    forward = subprocess.Popen(
        ["ray", "dashboard", "--port", str(DASHBOARD), str(laptop.yaml)],
        cwd=laptop.checkout, env=laptop.environment, stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(10)
    job = ("--address", f"http://127.0.0.1:{DASHBOARD}")
    command = "isoflop run /mnt/shared/real.toml --yes --address auto --dir /root/runs/real "
    command += "--storage /mnt/shared"
    laptop.ray("job", "submit", *job, "--no-wait", "--submission-id", "real", "--", "bash", "-ic",
               command)  # fmt: skip
    wait_for(laptop, 4, job)
    hosts.all[2].kill()
    said = laptop.ray("job", "logs", *job, "--follow", "real", within=1200)
    assert "Job 'real' succeeded" in laptop.ray("job", "status", *job, "real"), said
    forward.terminate()
    forward.communicate()

    home = tmp_path / "home"
    home.mkdir()
    laptop.ray("rsync-down", str(laptop.yaml), "/root/runs/real/", f"{home}/")
    found = table(home)
    whole = pd.read_parquet(home / "trials.parquet")
    assert set(whole["status"]) == {"completed"}
    assert whole["attempts"].max() > 1  # the machine took something with it
    alone = here(tmp_path, "alone", "-s", "resources.slots=1")
    pd.testing.assert_frame_equal(alone, found)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    pd.testing.assert_frame_equal(here(tmp_path, "nodes", "--address", nodes.address), found)
    nodes.shutdown()


def wait_for(laptop, ended, job):
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert "Job 'real' failed" not in laptop.ray("job", "status", *job, "real"), laptop.ray(
            "job", "logs", *job, "real"
        )
        said = laptop.on_head("isoflop status /root/runs/real --json 2>/dev/null || true")
        text = said[said.find("{") : said.rfind("}") + 1]
        if text and yaml.safe_load(text)["ended"] >= ended:
            return
        time.sleep(2)
    raise AssertionError("the sweep never got there")
