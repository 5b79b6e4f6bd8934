"""Runs a command with the system calls that a unit allows: with_system_calls.py UNIT [-CALL]... -- command argument...

The unit's SystemCallFilter= is read as systemd reads it: groups are expanded by systemd-analyze, and the filter is made
with libseccomp, which systemd uses, too. Each -CALL is taken out of it.
"""

import ctypes
import errno
import os
import re
import subprocess
import sys

ALLOW = 0x7FFF0000
SCMP_ACT_ERRNO = 0x00050000
UNKNOWN = -1  # no such system call on this architecture


def groups():
    """Every group of systemd's with what is listed in it, groups among that."""
    found, members = {}, []
    listing = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    for line in re.sub("\x1b[^m]*m", "", listing).splitlines():
        if line.startswith("@"):
            members = found.setdefault(line.strip(), [])
        elif line.strip() and not line.strip().startswith("#"):
            members.append(line.strip())
    return found


def expand(name, known):
    """The system calls that a name stands for."""
    if not name.startswith("@"):
        return {name}
    return set().union(*(expand(member, known) for member in known[name]))


def allowed(unit):
    """The system calls that the unit allows; those of @default always are."""
    known = groups()
    names = expand("@default", known)
    for line in open(unit):
        if not line.startswith("SystemCallFilter="):
            continue
        value = line.strip().split("=", 1)[1]
        listed = set().union(*(expand(name, known) for name in value.lstrip("~").split()))
        names = names - listed if value.startswith("~") else names | listed
    return names


def load(names):
    """Forbids this process and its children everything else."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    filter_ = ctypes.c_void_p(seccomp.seccomp_init(SCMP_ACT_ERRNO | errno.EPERM))
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number != UNKNOWN:
            seccomp.seccomp_rule_add(filter_, ALLOW, number, 0)
    if seccomp.seccomp_load(filter_) != 0:
        sys.exit("with_system_calls.py: the filter cannot be loaded")


unit, *rest = sys.argv[1:]
split = rest.index("--")
names = allowed(unit)
for call in rest[:split]:
    if call[1:] not in names:
        sys.exit(f"with_system_calls.py: {call[1:]} is not allowed by {unit} anyway")
    names.remove(call[1:])
load(names)
os.execvp(rest[split + 1], rest[split + 1 :])
