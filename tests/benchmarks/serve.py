"""The training API under load and under SIGKILL: how fast, how steady, and is anything lost?

    python tests/benchmarks/serve.py [--seconds 600] [--kills 20] [--plain-kills 20]     [--quick]

Cached answers of the `law` backend are asked over kept connections from this process: of the plain
application (uvicorn, without Ray) and of an application of Ray Serve that answers one and the same
thing, as references, and of `isoflop serve`; memory is that of the whole process tree, taken at the
start, every ten seconds (at least thirty times) and at the end: what is printed are both ends and
the median of each third between. Then servers are killed at random moments while six clients ask
new configurations; after a restart the total must be the sum of all answered runs, each charged
once, and nothing that a client was told may be missing. All traffic stays on 127.0.0.1.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from running import descendants
from serving import COURSE, KEY

from tuner.provenance import commit

TESTS = Path(__file__).resolve().parent.parent
CONNECTIONS = 16
CLIENTS = 6
PLAIN = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from serving import serving
law = {{"learning_rate": 6e-4, "seconds_per_trial": float(sys.argv[3])}}
with serving(Path(sys.argv[1]), port=int(sys.argv[2]), law=law, budget=1e30):
    time.sleep(86400)
"""
ECHO = """
import logging, sys, time
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig
app = FastAPI()
@app.get("/health")
@app.get("/loss")
async def loss(): return {"loss": 3.5, "total_flops_used": 10**16}
@serve.deployment(
    max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0},
    logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
)
@serve.ingress(app)
class Echo: pass
ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
serve.start(
    proxy_location=ProxyLocation.HeadOnly, http_options=HTTPOptions(port=int(sys.argv[2]))
)
serve.run(Echo.bind())
time.sleep(86400)
"""
KINDS = ("uvicorn", "serve_echo", "isoflop_serve")


class Server:
    """A service in a process of its own: `isoflop serve`, or what it is compared with."""

    def __init__(self, folder: Path, port: int, *, kind: str, law_seconds: float = 0.0) -> None:
        self.url = f"http://127.0.0.1:{port}"
        code = PLAIN if kind == "uvicorn" else ECHO
        command = [sys.executable, "-c", code, str(folder), str(port), str(law_seconds)]
        if kind == "isoflop_serve":
            law = f"law={{learning_rate=6e-4,seconds_per_trial={law_seconds}}}"
            command = [
                sys.executable, "-m", "tuner.cli", "serve", "--key", KEY, "--dir", str(folder),
                "--port", str(port), "--budget", "1e30", "-s", law,
            ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 240
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} never answered")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Does it?"""
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def memory(self) -> float:
        """Of it and all it started, shared pages counted once, MiB."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        return sum(map(_proportional, pids)) / 1024

    def cpu(self) -> float:
        """Seconds of processor time that it and all it started have taken."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        return sum(map(_ticks, pids)) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it without warning."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """End it as a person does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# --- load


async def load(url: str, seconds: float) -> list[float]:
    """Milliseconds that each answer to a cached question took, over some seconds."""
    host, port = url.removeprefix("http://").split(":")
    query = urlencode({**COURSE, "api_key": KEY})
    request = f"GET /loss?{query} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    until, taken = time.perf_counter() + seconds, []

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (began := time.perf_counter()) < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            taken.append(1e3 * (time.perf_counter() - began))
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return taken


def measured(server: Server, seconds: float) -> dict[str, Any]:
    """Requests a second, their times, and memory from the start to the end."""
    requests.get(f"{server.url}/loss", params={**COURSE, "api_key": KEY}, timeout=120)
    asyncio.run(load(server.url, min(2.0, seconds / 10)))
    begun, start = server.cpu(), server.memory()
    with sampled(server, min(10.0, seconds / 30)) as samples:
        taken = np.array(asyncio.run(load(server.url, seconds)))
    used = server.cpu() - begun
    thirds = [float(np.median(third)) for third in np.array_split(samples, 3)]
    return {
        "requests_per_second": round(len(taken) / seconds, 1),
        "cpu_ms_per_request": round(1e3 * used / len(taken), 2),
        "p50_ms": round(float(np.quantile(taken, 0.5)), 2),
        "p99_ms": round(float(np.quantile(taken, 0.99)), 2),
        "memory_start_mib": round(start, 1),
        "memory_thirds_mib": [round(third, 1) for third in thirds],
        "memory_end_mib": round(server.memory(), 1),
        "memory_samples": len(samples),
    }


@contextmanager
def sampled(server: Server, every: float) -> Iterator[list[float]]:
    """Its memory every so many seconds, while the block runs."""
    samples, over = [], threading.Event()

    def sample() -> None:
        while not over.wait(every):
            samples.append(server.memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


# --- kills


def killed(folder: Path, kills: int, rng: random.Random, *, kind: str) -> dict[str, int]:
    """Kill a server so many times under load, and hold the books against what clients were told."""
    port, told, over = free_port(), {}, threading.Event()

    def client(worker: int) -> None:
        for number in range(worker, 10**6, CLIENTS):
            # A rate of its own each: no configuration comes twice.
            asked = COURSE | {"learning_rate": 1e-4 + number * 1e-9}
            while not over.is_set():
                try:
                    answer = requests.get(
                        f"http://127.0.0.1:{port}/loss",
                        params={**asked, "api_key": KEY},
                        timeout=60,
                    )
                    if answer.status_code == 200:
                        told[asked["learning_rate"]] = answer.json()["loss"]
                        break
                except requests.RequestException:
                    time.sleep(0.05)
            if over.is_set():
                return

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            for _ in range(kills):
                server = Server(folder, port, kind=kind, law_seconds=0.05)
                time.sleep(rng.uniform(0.2, 3))
                server.kill()
            server = Server(folder, port, kind=kind, law_seconds=0.05)
        finally:
            over.set()
        for one in clients:
            one.result()
    key: dict[str, Any] = {"api_key": KEY}
    while requests.get(f"{server.url}/budget", params=key, timeout=60).json()["reserved"]:
        time.sleep(0.1)
    runs = requests.get(f"{server.url}/previous_runs", params=key, timeout=60).json()
    total = requests.get(f"{server.url}/total_flops_used", params=key, timeout=60).json()
    server.end()
    found = {run["learning_rate"]: run["loss"] for run in runs["previous_runs"]}
    return {
        "kills": kills,
        "answered": len(told),
        "lost": sum(found.get(rate) != loss for rate, loss in told.items()),
        "twice": len(runs["previous_runs"]) - len(found),
        "off_by_flops": total - sum(run["train_flops"] for run in runs["previous_runs"]),
    }


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="of load, on each server")
    parser.add_argument("--kills", type=int, default=20, help="of `isoflop serve`")
    parser.add_argument("--plain-kills", type=int, default=20, help="of the plain application")
    parser.add_argument("--quick", action="store_true", help="under two minutes on two quiet cores")
    asked = parser.parse_args()
    seconds, kills, plain = asked.seconds, asked.kills, asked.plain_kills
    if asked.quick:
        seconds, kills, plain = 10.0, 1, 2
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in KINDS if seconds else ():
            server = Server(Path(place) / name, free_port(), kind=name)
            try:
                share = seconds if name == "isoflop_serve" else min(30, seconds)
                found[name] = measured(server, share)
            finally:
                server.end()
        if seconds:
            ours = found["isoflop_serve"]
            for name in KINDS[:2]:
                found[f"speed_vs_{name}"] = round(
                    ours["requests_per_second"] / found[name]["requests_per_second"], 3
                )
                found[f"cpu_vs_{name}"] = round(
                    ours["cpu_ms_per_request"] / found[name]["cpu_ms_per_request"], 3
                )
        rng = random.Random(0)
        for kind, count in (("uvicorn", plain), ("isoflop_serve", kills)):
            if count:
                folder = Path(place) / f"killed_{kind}"
                found[f"killed_{kind}"] = killed(folder, count, rng, kind=kind)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
    print(json.dumps(found | {"machine": machine, "commit": commit()}))


if __name__ == "__main__":
    main()
