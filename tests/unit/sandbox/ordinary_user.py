"""Become an ordinary user and run pytest: `python ordinary_user.py ARGUMENTS...`, started as root.

An interpreter that lives in a folder closed to others (root's home, say) is made reachable in a
mount namespace of this process alone.
"""

import ctypes
import os
import sys
from pathlib import Path

USER = 1000
_NEW_NAMESPACE, _BIND, _PRIVATE, _RECURSIVE = 0x20000, 0x1000, 0x40000, 0x4000


def main() -> None:
    """Exits with pytest's status."""
    closed = _closed_folder(Path(sys.base_prefix))
    if closed is not None:
        _reopen(closed, Path(sys.base_prefix))
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.environ["HOME"] = "/tmp"
    os.environ.pop("PYTEST_ADDOPTS", None)  # the choice of tests is in the arguments
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])


def _closed_folder(path: Path) -> Path | None:
    """The first folder on the way to `path` that others may not pass."""
    for folder in [*reversed(path.parents), path]:
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def _reopen(closed: Path, wanted: Path) -> None:
    """Put an open folder, holding only `wanted`, over the closed one."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), "mount refused")

    def mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
        words = [word.encode() if word is not None else None for word in (source, str(target), kind)]
        check(libc.mount(*words, ctypes.c_ulong(flags), data.encode() if data else None))

    check(libc.unshare(_NEW_NAMESPACE))
    mount("none", Path("/"), None, _PRIVATE | _RECURSIVE)
    keep = Path("/mnt")
    mount(str(wanted), keep, None, _BIND | _RECURSIVE)
    mount("tmpfs", closed, "tmpfs", 0, "mode=0755")
    wanted.mkdir(parents=True)
    mount(str(keep), wanted, None, _BIND | _RECURSIVE)


if __name__ == "__main__":
    main()
