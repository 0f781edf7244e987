"""The files that describe machines: Ray's own check, and what it lets through."""

import copy
import json
import re
import subprocess
import warnings

import pytest
import yaml

from tuner.config import load
from tuner.sections import Resources

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ray.autoscaler._private.util import prepare_config, validate_config

LAUNCHED = ("config", "gcp", "local")
GPUS = {  # of the machine types named: the clouds' own tables, November 2026
    "m7i.large": 0, "g5.xlarge": 1, "g5.12xlarge": 4, "p4d.24xlarge": 8,
    "e2-standard-2": 0, "g2-standard-4": 1, "g2-standard-48": 4, "a2-highgpu-8g": 8,
}  # fmt: skip
WORLD = ("0.0.0.0", "::")


@pytest.fixture
def read(root):
    return lambda name: yaml.safe_load((root / "cluster" / f"{name}.yaml").read_text())


def faults(config):
    """What Ray's validation misses and would cost money, trials or a secret."""
    types = config.get("available_node_types", {})
    found = []
    for name, kind in types.items():
        if name == config["head_node_type"]:
            if kind["resources"].get("CPU") != 0 or kind["resources"].get("GPU"):
                found.append("the head takes trials")
            if "InstanceMarketOptions" in kind["node_config"] or any(
                entry.get("preemptible") for entry in kind["node_config"].get("scheduling", [])
            ):
                found.append("the head may be taken away")
            continue
        machine = kind["node_config"].get("InstanceType") or kind["node_config"]["machineType"]
        if kind["resources"].get("GPU", 0) != GPUS[machine]:
            found.append(f"{name}: {machine} has {GPUS[machine]} GPUs")
        if kind["max_workers"] > config["max_workers"]:
            found.append(f"{name}: more workers than the cluster may have")
        if kind["min_workers"]:
            found.append(f"{name}: costs money while nothing waits")
    return found + start_faults(config) + open_ports(config)


def start_faults(config):
    found = []
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        if "ray start" not in command:
            continue
        if "RAY_AUTH_MODE=token" not in command:
            found.append("Ray starts without authentication")
        if "ulimit -n 65536" not in command:
            found.append("too few open files")
        if "--head" in command and "--dashboard-host=127.0.0.1" not in command:
            found.append("the dashboard is not on loopback")
        if re.search(r"--(password|redis-password)|RAY_AUTH_TOKEN=", command):
            found.append("a secret in a command")
    return found


def open_ports(config):
    """Rules of a security group that let the world in."""
    rules = config["provider"].get("security_group", {}).get("IpPermissions", [])
    ranges = [r for rule in rules for r in rule.get("IpRanges", []) + rule.get("Ipv6Ranges", [])]
    return [f"open to {r}" for r in ranges if str(r).find("/0") > 0]


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_it(read, name):
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", LAUNCHED)
def test_nothing_ray_misses(read, name):
    assert faults(read(name)) == []


BROKEN = {
    "more workers than": lambda c: c["available_node_types"]["a10g"].update(max_workers=9),
    "the head takes trials": lambda c: c["available_node_types"]["head"].update(
        resources={"CPU": 2}
    ),
    "the head may be taken": lambda c: c["available_node_types"]["head"]["node_config"].update(
        InstanceMarketOptions={"MarketType": "spot"}
    ),
    "has 4 GPUs": lambda c: c["available_node_types"]["a10g_x4"]["resources"].update(GPU=1),
    "costs money": lambda c: c["available_node_types"]["a10g"].update(min_workers=1),
    "open to": lambda c: c["provider"]["security_group"].update(
        IpPermissions=[{"FromPort": 8265, "ToPort": 8265, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ),
    "not on loopback": lambda c: c.update(
        head_start_ray_commands=["ulimit -n 65536; RAY_AUTH_MODE=token ray start --head"]
    ),
    "without authentication": lambda c: c.update(
        worker_start_ray_commands=["ulimit -n 65536; ray start --address=$RAY_HEAD_IP:6379"]
    ),
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_file_passes_ray_and_not_this(read, said):
    config = copy.deepcopy(read("config"))
    BROKEN[said](config)
    validate_config(prepare_config(copy.deepcopy(config)))  # Ray says nothing
    assert any(said in fault for fault in faults(config))


def test_workers_of_the_clouds_are_spot(read):
    aws, gcp = (read(name)["available_node_types"] for name in ("config", "gcp"))
    for name, kind in aws.items():
        market = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        assert (market == "spot") is (name != "head")
    for name, kind in gcp.items():
        spot = any(entry["preemptible"] for entry in kind["node_config"].get("scheduling", []))
        assert spot is (name != "head")


def test_several_kinds_of_gpu(read):
    for name in ("config", "gcp"):
        kinds = read(name)["available_node_types"].values()
        assert {kind["resources"].get("GPU", 0) for kind in kinds} == {0, 1, 4, 8}


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_project_comes_from_the_synced_repository(read, name, root):
    config = read(name)
    (setup, *_) = config["setup_commands"]
    synced = config["file_mounts"]["~/isoflop"]
    assert setup == "bash ~/isoflop/cluster/setup.sh"
    assert synced == "."
    assert {".venv", "runs"} <= set(config["rsync_exclude"])
    script = (root / "cluster" / "setup.sh").read_text()
    assert '-e "$repository[sweep]"' in script
    assert script.rstrip().endswith('isoflop" doctor')
    assert "pip install isoflop" not in script


def test_the_local_machines_number_agrees_everywhere(read):
    config = read("local")
    workers = len(config["provider"]["worker_ips"])
    assert config["min_workers"] == config["max_workers"] == workers
    (head,) = (c for c in config["head_start_ray_commands"] if "--head" in c)
    assert "--num-cpus=0" in head
    assert all(
        "--node-ip-address" in c
        for c in config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        if "ray start" in c
    )


def test_kubernetes_heads_train_nothing_and_workers_ask_for_their_gpus(read):
    job = read("kuberay")
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["kind"], job["spec"]["shutdownAfterJobFinishes"]) == ("RayJob", True)
    assert cluster["authOptions"] == {"mode": "token"}
    start = cluster["headGroupSpec"]["rayStartParams"]
    assert (start["num-cpus"], start["dashboard-host"]) == ("0", "127.0.0.1")
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"]
        assert int(limits["nvidia.com/gpu"]) in {1, 4}
    assert "hostNetwork" not in json.dumps(job)
    assert "NodePort" not in json.dumps(job)


def test_what_kubernetes_runs_is_a_sweep_that_is_there(read, root):
    words = read("kuberay")["spec"]["entrypoint"].split()
    assert words[:2] == ["isoflop", "run"]
    assert isinstance(load(root / words[2]).resources, Resources)


def test_no_file_holds_a_secret(root):
    secret = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN|aws_secret_access_key|ghp_\w{20}|[0-9a-f]{64}", re.IGNORECASE
    )
    for path in sorted((root / "cluster").rglob("*")):
        if path.is_file() and path.suffix in {".yaml", ".sh", ".json", ".md", ".py"}:
            assert not secret.search(path.read_text()), path


def test_the_roles_may_do_little(root):
    for path in sorted((root / "cluster" / "iam").glob("*.json")):
        for statement in json.loads(path.read_text())["Statement"]:
            actions = statement["Action"]
            actions = [actions] if isinstance(actions, str) else actions
            assert not any("*" in action for action in actions), path
            looks = all(":Describe" in action for action in actions)
            bounded = statement["Resource"] != "*" or "Condition" in statement
            assert looks or bounded, statement["Sid"]
    worker = (root / "cluster" / "iam" / "worker.json").read_text()
    assert set(re.findall(r'"(\w+):\w+"', worker)) == {"s3"}


def test_the_roles_know_the_types_and_region_of_the_yaml(read, root):
    config = read("config")
    head = (root / "cluster" / "iam" / "head.json").read_text()
    region = config["provider"]["region"]
    assert set(re.findall(r"us-\w+-\d", head)) == {region}
    workers = {
        kind["node_config"]["InstanceType"]
        for name, kind in config["available_node_types"].items()
        if name != "head"
    }
    (started,) = (s for s in json.loads(head)["Statement"] if s["Sid"] == "StartWorkers")
    assert set(started["Condition"]["StringEqualsIfExists"]["ec2:InstanceType"]) == workers


@pytest.mark.parametrize("script", ["slurm.sh", "setup.sh"])
def test_the_scripts_parse(root, script):
    subprocess.run(["bash", "-n", root / "cluster" / script], check=True)
