"""Three machines made of Linux namespaces on one: root, iproute2, openssh-server and rsync needed.

Each has its own network, processes, name, home, /tmp, /run and shared memory, and an SSH server on
port 22 of its address; they share a private bridge, the programs of this machine, and /mnt/shared
as machines share NFS. Nothing leaves the bridge. `python tests/cluster/hosts.py` makes them and
waits for Ctrl-C.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

NETWORK = f"10.77.{os.getpid() % 200 + 20}"
PROGRAMS = ("ip", "unshare", "rsync", "ssh", "/usr/sbin/sshd")

BOOT = """
set -e
hostname {name}
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt && mkdir -p /mnt/shared /mnt/python
mount --bind {base}/shared /mnt/shared
mount --bind {python} /mnt/python
for folder in /root /run /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mkdir -p {python} && mount --bind /mnt/python {python} # where this machine's home had it
cp {base}/host_key /root/.host_key && chmod 600 /root/.host_key
mkdir -p /run/sshd /root/.ssh /root/.local/bin
chmod 755 /run /run/sshd; chmod 700 /root /root/.ssh
cp {base}/key.pub /root/.ssh/authorized_keys
cp {base}/uv /root/.local/bin/uv
cp -r {base}/env /root/isoflop-env
echo 'export PATH=/root/.local/bin:$PATH' > /root/.bashrc
mount -t tmpfs -o mode=1777 tmpfs /tmp
cd /
exec /usr/sbin/sshd -D -e -h /root/.host_key -o ListenAddress={address} -o UsePAM=no \
    -o PermitRootLogin=prohibit-password -o AuthorizedKeysFile=/root/.ssh/authorized_keys \
    -o StrictModes=no -o MaxStartups=100
"""


class Host:
    """One machine; it lives until it is killed."""

    def __init__(self, base: Path, number: int) -> None:
        self.name = f"iso{os.getpid() % 1000}h{number}"
        self.address = f"{NETWORK}.{number}"
        self._wire()
        script = BOOT.format(
            name=self.name, base=base, address=self.address, python=sys.base_prefix
        )
        self.log = base / f"{self.name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "unshare", "--pid", "--fork", "--mount", "--uts",
                 "--ipc", "--mount-proc", "--kill-child", "bash", "-c", script],
                stdout=log, stderr=log,
            )  # fmt: skip

    def _wire(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", f"{self.name}v", "type", "veth", "peer", "name", "eth0", "netns",
            self.name)  # fmt: skip
        run("ip", "link", "set", f"{self.name}v", "master", bridge(), "up")
        inside = ("ip", "-n", self.name)
        run(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")

    def kill(self) -> None:
        """End it as a spot market does: at once, with all that runs on it."""
        if self.process.poll() is None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            for pid in children.read_text().split():  # the first process of its namespace
                os.kill(int(pid), signal.SIGKILL)
            self.process.wait(timeout=20)

    def remove(self) -> None:
        """Take its network away too."""
        self.kill()
        subprocess.run(["ip", "netns", "del", self.name], check=False, stderr=subprocess.DEVNULL)


def bridge() -> str:
    """Name of the bridge between them."""
    return f"isobr{os.getpid() % 1000}"


class Hosts:
    """Three machines and a laptop, which is this process with a home of its own."""

    def __init__(self, base: Path) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing or os.geteuid():
            raise RuntimeError(f"hosts need root and {', '.join(missing)}")
        self.base = base
        base.mkdir(parents=True, exist_ok=True)
        (base / "shared").mkdir()
        for name in ("key", "host_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / name))
        _environment(base / "env")
        # What it would fetch is there already: the hosts have no way to the internet.
        (base / "uv").write_text("#!/bin/sh\nexit 0\n")
        (base / "uv").chmod(0o755)
        run("ip", "link", "add", bridge(), "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}.254/24", "dev", bridge())
        run("ip", "link", "set", bridge(), "up")
        self.all: list[Host] = []
        try:
            for number in (1, 2, 3):
                self.all.append(Host(base, number))
            for host in self.all:
                _wait_for_ssh(host)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """End them all and take the bridge down."""
        for host in self.all:
            host.remove()
        subprocess.run(["ip", "link", "del", bridge()], check=False)
        shutil.rmtree(self.base, ignore_errors=True)


def _environment(folder: Path) -> None:
    """An environment as `cluster/setup.sh` makes it: this one's packages, the synced repository."""
    (folder / "bin").mkdir(parents=True)
    packages = [sysconfig.get_paths()["purelib"]]
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (site / "hosts.pth").write_text("\n".join(["/root/isoflop", *packages]) + "\n")
    home = Path(sys.base_prefix) / "bin"
    (folder / "pyvenv.cfg").write_text(f"home = {home}\nversion = {sys.version.split()[0]}\n")
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(home / "python3")
    for name, module in (("isoflop", "tuner.cli"), ("ray", "ray.scripts.scripts")):
        script = folder / "bin" / name
        script.write_text(
            "#!/root/isoflop-env/bin/python\nimport sys\n"
            f"from {module} import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)


def _wait_for_ssh(host: Host) -> None:
    deadline = time.monotonic() + 60
    key = str(host.log.parent / "key")
    while time.monotonic() < deadline:
        if host.process.poll() is not None:
            raise RuntimeError(f"{host.name} died: {host.log.read_text()}")
        asked = subprocess.run(
            ["ssh", "-i", key, "-o", "StrictHostKeyChecking=no",
             "-o", "UserKnownHostsFile=/dev/null",
             "-o", "ConnectTimeout=5", f"root@{host.address}", "hostname"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if asked.stdout.strip() == host.name:
            return
        time.sleep(0.5)
    raise RuntimeError(f"{host.name} does not answer: {host.log.read_text()}")


def run(*command: str) -> None:
    """Run a command that must not fail."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    hosts = Hosts(Path("/var/tmp") / f"isohosts{os.getpid()}")
    print(*(f"{host.name} {host.address}" for host in hosts.all), f"key {hosts.base}/key", sep="\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        signal.pause()
    finally:
        hosts.remove()
