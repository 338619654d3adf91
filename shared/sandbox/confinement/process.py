"""What a process gives up before it runs a stranger's program: user, capabilities, limits.

The order is that of Pi-SQL section 8.3. Everything here raises OSError when it is refused, and
the caller then runs nothing.
"""

import ctypes
import os
import resource
import struct

from . import seccomp
from ._libc import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    prctl,
    syscall,
    unshare,
)
from .landlock import restrict

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522
_NEW_USER, _NEW_NETWORK, _NEW_IPC, _NEW_PID = 0x10000000, 0x40000000, 0x08000000, 0x20000000

_SIGKILL = 9  # the signal module costs the launcher 8 ms, a third of its time

UNPRIVILEGED = 64_750
"""The user and group a root parent hands its children to; no account should have this number."""


def lock_down(
    filter_: seccomp.Filter,
    landlock_ruleset: int | None,
    *,
    parent: int,
    cpu_seconds: float,
    address_space: int,
    processes: int | None,
) -> None:
    """Confine this process for good: session, limits, user, privileges, Landlock, seccomp.

    `parent` is the process it dies with, `address_space` in bytes. `processes` limits those of the
    user, its threads included, and so is None where the process itself needs a thread: an ordinary
    user may have hundreds. `landlock_ruleset` None only where the filter leaves no way to open a
    file. Raises OSError when a layer is refused.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    limit_resources(cpu_seconds, address_space, processes)
    drop_user()
    drop_capabilities()
    die_with_parent()
    if os.getppid() != parent:  # it ended before the death signal was armed
        os._exit(1)
    if landlock_ruleset is not None:
        restrict(landlock_ruleset)
        os.close(landlock_ruleset)
    filter_.install()


def die_with_parent() -> None:
    """No new privileges, no core or tracing by the same user, SIGKILL when the parent ends.

    After the change of user, which clears the last two.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_PDEATHSIG, _SIGKILL)


def limit_resources(cpu_seconds: float, address_space: int, processes: int | None) -> None:
    """CPU (a second of grace before SIGKILL), memory, no file writes, few descriptors, no core."""
    cpu = max(1, round(cpu_seconds))
    limits = [
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, address_space, address_space),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
    ]
    if processes is not None:
        limits.append((resource.RLIMIT_NPROC, processes, processes))
    for which, soft, hard in limits:
        ceiling = resource.getrlimit(which)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(which, (soft, hard))


def drop_user() -> None:
    """From root to the unprivileged user; an ordinary user stays who it is."""
    if os.geteuid() == 0 or os.getuid() == 0:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)


def drop_capabilities() -> None:
    """Empty every capability set of this thread, ambient ones included."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = bytes(24)
    syscall(
        _CAPSET[os.uname().machine],
        ctypes.create_string_buffer(header, len(header)),
        ctypes.create_string_buffer(data, len(data)),
    )


def enter_namespaces() -> list[str]:
    """New network, IPC and PID namespaces where the kernel allows; the names of those entered.

    Their absence is no error (many containers refuse them): seccomp alone leaves no socket, no
    signal and no way to name another process. Needs a single-threaded process. The PID namespace
    holds for the children only.
    """
    probe = os.fork()
    if probe == 0:  # some systems grant a user namespace and then nothing inside it
        try:
            entered = _enter()
        except OSError:
            entered = []
        os._exit(0 if entered else 1)
    _, status = os.waitpid(probe, 0)
    return _enter() if status == 0 else []


def _enter() -> list[str]:
    entered: list[str] = []
    user, group = os.geteuid(), os.getegid()
    if user != 0:
        unshare(_NEW_USER)
        entered.append("user")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    for name, flag in (("network", _NEW_NETWORK), ("ipc", _NEW_IPC), ("pid", _NEW_PID)):
        try:
            unshare(flag)
        except OSError:
            continue
        entered.append(name)
    return entered


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
