"""Confinement of a process by the kernel: limits, user, privileges, Landlock, seccomp.

Stands on ctypes and the standard library alone and knows nothing of what it confines. Raw system
calls instead of a binding, because libseccomp's needs a shared library that the base image does
not have, and the whole of what is used is one BPF table and six calls.
"""

from . import landlock, seccomp
from .process import UNPRIVILEGED, enter_namespaces, lock_down

__all__ = ["UNPRIVILEGED", "enter_namespaces", "landlock", "lock_down", "seccomp"]
