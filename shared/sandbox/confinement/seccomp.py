"""Seccomp: which system calls the process may make, as a BPF allow-list.

Three answers: allowed calls pass; hostile calls (start a program, make a socket, trace, mount ...)
kill the process with SIGSYS, which the parent reads as `denied` and no `except` can swallow;
every other call fails with EPERM, because libraries probe and carry on. Mapping memory as
executable is refused, so no new machine code comes in after the lock.
"""

import ctypes
import errno
import os
import struct

from ._libc import PR_SET_SECCOMP, prctl

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32_BIT = 0x40000000
_PROT_EXEC = 0x4
_CLONE_THREAD = 0x10000

_Numbers = tuple[int | None, int | None]
# name -> (x86_64, aarch64); None where an architecture never had the call
_BASE: dict[str, _Numbers] = {
    "read": (0, 63),
    "write": (1, 64),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "futex": (202, 98),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "poll": (7, None),
    "ppoll": (271, 73),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "sched_yield": (24, 124),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "uname": (63, 160),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "nanosleep": (35, 101),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "restart_syscall": (219, 128),
    "sched_getaffinity": (204, 123),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "getrandom": (318, 278),
    "rseq": (334, 293),
    "arch_prctl": (158, None),
}
_FILES: dict[str, _Numbers] = {
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
}
_THREADS: dict[str, _Numbers] = {
    "clone": (56, 220),
    "clone3": (435, 435),
}
_HOSTILE: dict[str, _Numbers] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "bind": (49, 200),
    "listen": (50, 201),
    "socketpair": (53, 199),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "kill": (62, 129),
    "ptrace": (101, 117),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "tkill": (200, 130),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "finit_module": (313, 273),
    "memfd_create": (319, 279),
    "bpf": (321, 280),
    "execveat": (322, 281),
    "userfaultfd": (323, 282),
    "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
}
_NO_NEW_CODE = ("mmap", "mprotect")

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

SIMULATE_ABSENT = False
"""Set by tests, and by the child they start, to behave as on a kernel without seccomp."""


class Filter:
    """A compiled filter; `install` puts it on the calling thread for good."""

    def __init__(self, program: bytes) -> None:
        self._program = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(self._program))
        self._header = ctypes.create_string_buffer(header, len(header))

    def install(self) -> None:
        """Needs no_new_privs. Raises OSError where the kernel has no seccomp filters."""
        if SIMULATE_ABSENT:
            raise OSError(errno.EINVAL, "the kernel has no seccomp filters")
        prctl(PR_SET_SECCOMP, 2, ctypes.addressof(self._header))


def available() -> bool:
    """Whether this kernel and processor can be given one of our filters."""
    try:
        prctl(PR_SET_SECCOMP, 2, 0)
    except OSError as error:
        # EFAULT: filters exist and ours was not readable, which is the documented probe
        return error.errno == errno.EFAULT and os.uname().machine in _AUDIT and not SIMULATE_ABSENT
    return False


def compile_filter(*, start_program: bool) -> Filter:
    """The filter of a CPython child, or with `start_program` of a launcher about to execute Monty.

    The launcher's filter additionally lets through what loading one program takes: execveat,
    opening and examining files (Landlock says which), executable mappings and threads.
    Raises OSError on a processor whose call numbers are not known here.
    """
    machine = os.uname().machine
    if machine not in _AUDIT:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {machine}")
    column = list(_AUDIT).index(machine)
    code: list[bytes] = [
        _op(_LOAD, _ARCHITECTURE),
        _op(_EQUAL, _AUDIT[machine], 1, 0),
        _op(_RETURN, _KILL_PROCESS),
        _op(_LOAD, _NUMBER),
        _op(_AT_LEAST, _X32_BIT, 0, 1),
        _op(_RETURN, _KILL_PROCESS),
    ]

    def on(numbers: _Numbers, answer: int) -> None:
        number = numbers[column]
        if number is not None:
            code.extend((_op(_EQUAL, number, 0, 1), _op(_RETURN, answer)))

    def by_argument(numbers: _Numbers, index: int, bits: int, when_set: int, otherwise: int) -> None:
        number = numbers[column]
        if number is not None:
            code.extend(
                (
                    _op(_EQUAL, number, 0, 4),
                    _op(_LOAD, _ARGUMENTS + 8 * index),
                    _op(_ANY_BIT, bits, 0, 1),
                    _op(_RETURN, when_set),
                    _op(_RETURN, otherwise),
                )
            )

    refused = _ERRNO | errno.EPERM
    for name, numbers in _BASE.items():
        if name in _NO_NEW_CODE and not start_program:
            by_argument(numbers, 2, _PROT_EXEC, refused, _ALLOW)
        else:
            on(numbers, _ALLOW)
    if start_program:
        for numbers in (*_FILES.values(), _HOSTILE["execveat"]):
            on(numbers, _ALLOW)
        by_argument(_THREADS["clone"], 0, _CLONE_THREAD, _ALLOW, _KILL_PROCESS)
    else:
        # no threads and, fork being a clone without the thread flag, no processes
        by_argument(_THREADS["clone"], 0, _CLONE_THREAD, refused, _KILL_PROCESS)
    on(_THREADS["clone3"], _ERRNO | errno.ENOSYS)
    for numbers in _HOSTILE.values():
        on(numbers, _KILL_PROCESS)
    code.append(_op(_RETURN, refused))
    return Filter(b"".join(code))


def _op(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)
