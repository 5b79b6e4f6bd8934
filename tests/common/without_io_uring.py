"""Runs a command in which io_uring_setup fails: without_io_uring.py EPERM|ENOSYS command argument..."""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
RETURN_ERRNO, RETURN_ALLOW = 0x00050000, 0x7FFF0000
IO_URING_SETUP = 425  # on every architecture

program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [
        (LOAD_WORD, 0, 0, 0),  # the number of the system call
        (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
        (RETURN, 0, 0, RETURN_ERRNO | getattr(errno, sys.argv[1])),
        (RETURN, 0, 0, RETURN_ALLOW),
    ]
)
instructions = ctypes.create_string_buffer(program)


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


libc = ctypes.CDLL(None, use_errno=True)
filter_ = Filter(len(program) // 8, ctypes.addressof(instructions))
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_)):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
