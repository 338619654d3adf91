"""Confine this process, then become a Monty worker.

Started as `python -I -S monty_launcher.py MONTY CPU_SECONDS ADDRESS_SPACE ABSENT subprocess` by
the pool of Monty's client; ABSENT names layers that a test takes away, or is `-`.
Monty is a boundary of its own; this is what an escape from it would find: no network, no other
file than the system's libraries, no other program to start than Monty itself.
"""

import os
import sys
from types import ModuleType

# Without site and the packages' __init__: this runs once per program, in about 15 ms.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs 5 ms
for _name, _folder in (("shared", os.path.dirname(_HERE)), ("shared.sandbox", _HERE)):  # noqa: PTH120
    _package = ModuleType(_name)
    _package.__path__ = [_folder]
    sys.modules[_name] = _package

from shared.sandbox.confinement import landlock, lock_down, seccomp  # noqa: E402

_LIBRARIES = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
_LOADERS = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
]


def main() -> None:
    """Raises OSError, and so starts no worker, when a layer is missing."""
    parent = os.getppid()
    binary, cpu_seconds, address_space, absent = sys.argv[1:5]
    landlock.SIMULATE_ABSENT = "landlock" in absent
    seccomp.SIMULATE_ABSENT = "seccomp" in absent
    os.closerange(3, 4_096)
    program = os.open(binary, os.O_RDONLY | os.O_CLOEXEC)
    loaders = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in _LOADERS if os.path.exists(path)]  # noqa: PTH110
    lock_down(
        seccomp.compile_filter(start_program=True),
        landlock.ruleset(_LIBRARIES, [program, *loaders]),
        parent=parent,
        cpu_seconds=int(cpu_seconds),
        address_space=int(address_space),
        processes=None,  # Monty has a thread of its own; the filter lets no process start
    )
    os.execve(program, [binary, *sys.argv[5:]], {})


if __name__ == "__main__":
    main()
