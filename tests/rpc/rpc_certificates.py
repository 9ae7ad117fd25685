"""Certificates for tests, made with the openssl command as an operator would."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


def openssl(folder: Path, line: str) -> None:
    try:
        subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the openssl command to make certificates")


@dataclass(frozen=True)
class Authority:
    """A private authority in a folder of its own."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return a certificate of `name`, good for this machine, and its key."""
        (self.folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        kind = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        openssl(self.folder, f"req {kind} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signing = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions"
        openssl(self.folder, f"x509 -req -in {name}.csr {signing} -out {name}.pem")
        (self.folder / f"{name}.key").chmod(0o600)
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"


def authority(folder: Path) -> Authority:
    folder.mkdir(exist_ok=True)
    kind = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl(folder, f"req -x509 {kind} -keyout ca.key -out ca.pem -subj /CN={folder.name} -days 2")
    return Authority(folder)
