"""Machines to reach over SSH: OpenSSH's server, for this user, at addresses of this one."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from connections import open_connections
from nni_world import ROOT, unused_port, wait_for

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


class Machine:
    """A machine with a home and a server of its own.

    Args:
        home: Of whoever comes by SSH.
        host: Its address, one of those that start with 127.
        identity: The file of the server's private key.
        key: The file of the private key that it lets in.
    """

    def __init__(self, home: Path, host: str, identity: Path, key: Path) -> None:
        self.home = home
        self.host = host
        self.port = unused_port()
        self.key = key
        self.log = home / "fake-trials.log"
        home.mkdir()
        if os.geteuid() == 0:  # as the system's service does, before it starts
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        path = home / "sshd_config"
        environment = {
            "HOME": home,
            "PYTHONPATH": ROOT,
            "FAKE_TRIAL_LOG": self.log,
            "OMP_NUM_THREADS": 1,
            "OMP_WAIT_POLICY": "passive",
            "PIP_INDEX_URL": "http://127.0.0.1:9",  # nobody is there
        }
        lines = [
            f"ListenAddress {host}:{self.port}",
            f"HostKey {identity}",
            f"AuthorizedKeysFile {key}.pub",
            "PidFile none",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "Subsystem sftp internal-sftp",
            f"SetEnv {' '.join(f'{name}={value}' for name, value in environment.items())}",
        ]
        path.write_text("\n".join(lines) + "\n")
        assert SSHD is not None
        command = [SSHD, "-D", "-f", path, "-E", home / "sshd.log"]
        self._server = psutil.Popen(list(map(str, command)), stdin=subprocess.DEVNULL)
        wait_for(lambda: "listening on" in self._log(), process=self._server)

    def _log(self) -> str:
        path = self.home / "sshd.log"
        return path.read_text() if path.exists() else ""

    def entry(self, **changes: Any) -> dict[str, Any]:
        """Return it as an entry of ``machineList``."""
        return {
            "host": self.host,
            "port": self.port,
            "user": getpass.getuser(),
            "sshKeyFile": str(self.key),
            "pythonPath": str(Path(sys.executable).parent),
            **changes,
        }

    def processes(self) -> list[psutil.Process]:
        """Return what was started there, but for its server."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.home):
                    found.append(process)
        return found

    def ways_back(self) -> set[Path]:
        """Return the sockets by which what runs there reaches whoever came by SSH."""
        return {
            Path(connection.laddr)
            for process in self._server.children(recursive=True)
            for connection in open_connections(process, "unix")
            if connection.laddr.startswith("/tmp/")
        }

    def die(self) -> None:
        """End all that it runs, at once and without a word."""
        left = set[Path]()
        with contextlib.suppress(psutil.Error):
            left = self.ways_back()
            servers = [self._server, *self._server.children(recursive=True)]
            for process in [*servers, *self.processes()]:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self._server.wait()
        for socket in left:
            socket.unlink(missing_ok=True)


def new_key(path: Path) -> str:
    """Make a pair of keys, and return the public one."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_suffix(".pub").read_text().strip()


@contextlib.contextmanager
def new_machines(folder: Path, known_hosts: Path, *hosts: str) -> Iterator[list[Machine]]:
    """Make machines, which end when the block is left.

    Args:
        folder: Where their homes are made.
        known_hosts: The file in which the client looks for their keys.
        hosts: Their addresses.
    """
    identity = new_key(folder / "identity")
    new_key(folder / "key")
    machines: list[Machine] = []
    try:
        for host in hosts:
            home = folder / f"machine-{host}"
            machines.append(Machine(home, host, folder / "identity", folder / "key"))
        known_hosts.parent.mkdir(exist_ok=True)
        known = [f"[{machine.host}]:{machine.port} {identity}\n" for machine in machines]
        known_hosts.write_text("".join(known))
        yield machines
    finally:
        for machine in machines:
            machine.die()
