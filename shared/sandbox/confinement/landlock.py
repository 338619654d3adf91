"""Landlock: which files the process may open, at all, from now on (kernel 5.13, ABI 1 to 7+).

A ruleset denies every kind of access its ABI knows and then allows reading, or reading and
executing, beneath named paths. From ABI 4 TCP bind and connect are denied, from ABI 6 signals and
abstract sockets outside the domain.
"""

import ctypes
import os
import struct

from ._libc import syscall

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION_QUERY = 1
_RULE_PATH_BENEATH = 1

_EXECUTE = 1 << 0
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_FILESYSTEM_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK = 0b11
_SCOPED = 0b11

SIMULATE_ABSENT = False
"""Set by tests, and by the child they start, to behave as on a kernel without Landlock."""


def abi() -> int:
    """The kernel's Landlock ABI; 0 when there is none."""
    if SIMULATE_ABSENT:
        return 0
    try:
        return syscall(_CREATE, None, 0, _VERSION_QUERY)
    except OSError:
        return 0


def ruleset(readable: list[str], executable: list[int]) -> int:
    """A descriptor of a new ruleset; `restrict` puts a process under it.

    `readable` are folders or files that may be opened for reading (a missing one is skipped),
    `executable` open descriptors of the files that may be executed. Raises OSError without
    Landlock.
    """
    version = abi()
    if version < 1:
        raise OSError("the kernel has no Landlock")
    filesystem = (1 << _FILESYSTEM_BITS.get(version, 16)) - 1
    attributes = struct.pack(
        "QQQ", filesystem, _NETWORK if version >= 4 else 0, _SCOPED if version >= 6 else 0
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    descriptor = syscall(_CREATE, ctypes.create_string_buffer(attributes[:size], size), size, 0)
    os.set_inheritable(descriptor, False)
    for path in readable:
        try:
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        access = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE  # noqa: PTH112 - pathlib costs 5 ms of the launcher's 20
        _allow(descriptor, target, access)
        os.close(target)
    for target in executable:
        _allow(descriptor, target, _READ_FILE | _EXECUTE)
    return descriptor


def restrict(descriptor: int) -> None:
    """Put this thread and all it starts under the ruleset, for good. Needs no_new_privs."""
    syscall(_RESTRICT, descriptor, 0)


def _allow(descriptor: int, target: int, access: int) -> None:
    rule = struct.pack("=Qi", access, target)
    buffer = ctypes.create_string_buffer(rule, len(rule))
    syscall(_ADD_RULE, descriptor, _RULE_PATH_BENEATH, buffer, 0)
