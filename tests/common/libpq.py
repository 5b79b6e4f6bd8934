"""Asks libpq itself: libpq.py LIBRARY

The first line on standard output tells what the library is: {"version", "directory", "options": {keyword: [variable,
default]}}, with the directory of the server's socket.
Then each line on standard input is a question, and each line on standard output its answer:

    {"parse": STRING}                         what PQconninfoParse makes of it: {"values"} or {"error"}
    {"connect": [STRING, OPTIONS], "environment": VARIABLES}
                                              what a connection made as pg_receivewal (17 and later) makes it would use; nothing is
                                              connected to: {"values", "password"} or {"error"}

Each character of a text stands for a byte, for libpq's texts have no encoding.
"""

import ctypes
import json
import os
import sys

# No value of the option. It is looked at last, and refused before anything is connected to.
NOWHERE = "nowhere"


class Option(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_char_p) for name in ("keyword", "variable", "default", "value", "label", "shown")],
        ("size", ctypes.c_int),
    ]


def text(found):
    return None if found is None else found.decode("latin-1")


def options(found):
    """Every entry of an array of libpq's, which is freed."""
    listed, at = [], 0
    while found[at].keyword:
        entry = found[at]
        listed.append([text(field) for field in (entry.keyword, entry.variable, entry.default, entry.value)])
        at += 1
    libpq.PQconninfoFree(found)
    return listed


def values(found):
    return {keyword: value for keyword, _, _, value in options(found) if value is not None}


def parse(string):
    error = ctypes.c_char_p()
    found = libpq.PQconninfoParse(string.encode("latin-1"), ctypes.byref(error))
    return {"values": values(found)} if found else {"error": text(error.value)}


def connect(string, given, variables):
    parsed = parse(string)
    if "error" in parsed:
        return parsed
    pairs = [("dbname", "replication")]
    pairs += [(keyword, value) for keyword, value in parsed["values"].items() if value]
    pairs += [("replication", "true"), ("fallback_application_name", "walring"), *given.items()]
    pairs += [("target_session_attrs", NOWHERE)]
    os.environb.clear()
    os.environb.update({name.encode("latin-1"): value.encode("latin-1") for name, value in variables.items()})
    connection = libpq.PQconnectStartParams(
        array([keyword for keyword, _ in pairs]), array([value for _, value in pairs]), 0
    )
    try:
        message = text(libpq.PQerrorMessage(connection))
        found = values(libpq.PQconninfo(connection))
        # Without one, nothing was resolved.
        if "dbname" not in found:
            return {"error": message}
        return {"values": found, "password": text(libpq.PQpass(connection)), "stopped": message}
    finally:
        libpq.PQfinish(connection)


def array(texts):
    return (ctypes.c_char_p * (len(texts) + 1))(*[item.encode("latin-1") for item in texts], None)


def answer(question):
    if "parse" in question:
        return parse(question["parse"])
    string, given = question["connect"]
    return connect(string, given, question["environment"])


libpq = ctypes.CDLL(sys.argv[1])
libpq.PQconninfoParse.restype = ctypes.POINTER(Option)
libpq.PQconninfo.restype = ctypes.POINTER(Option)
libpq.PQconninfo.argtypes = [ctypes.c_void_p]
libpq.PQconninfoFree.argtypes = [ctypes.POINTER(Option)]
libpq.PQconndefaults.restype = ctypes.POINTER(Option)
libpq.PQconnectStartParams.restype = ctypes.c_void_p
for function in (libpq.PQerrorMessage, libpq.PQhost, libpq.PQpass, libpq.PQfinish):
    function.argtypes = [ctypes.c_void_p]
libpq.PQerrorMessage.restype = libpq.PQhost.restype = libpq.PQpass.restype = ctypes.c_char_p

os.environb.clear()
known = {keyword: [variable, default] for keyword, variable, default, _ in options(libpq.PQconndefaults())}
stopped = libpq.PQconnectStartParams(array(["target_session_attrs"]), array([NOWHERE]), 0)
about = {"version": libpq.PQlibVersion(), "directory": text(libpq.PQhost(stopped)), "options": known}
libpq.PQfinish(stopped)
print(json.dumps(about), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
