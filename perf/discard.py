#!/usr/bin/env python3
"""The floor of a catch-up: receives WAL into one buffer and throws it away.

discard.py START_LSN BYTES   from the primary in PGHOST, PGPORT, PGUSER and PGPASSWORD; ends once so many bytes
                             of the stream have arrived. Nothing is parsed, checked, written or acknowledged:
                             no receiver can be faster with this server on this machine.
"""

import base64
import hashlib
import hmac
import os
import socket
import struct
import sys

READ = 1 << 20


class Server:
    def __init__(self):
        self.socket = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])))
        self.stream = self.socket.makefile("rb")
        settings = {"user": os.environ["PGUSER"], "database": "replication", "replication": "true"}
        text = b"".join(part.encode() + b"\0" for pair in settings.items() for part in pair) + b"\0"
        self.socket.sendall(struct.pack("!ii", 8 + len(text), 196608) + text)

    def send(self, tag, body):
        self.socket.sendall(tag + struct.pack("!i", 4 + len(body)) + body)

    def message(self):
        tag, length = struct.unpack("!ci", self.stream.read(5))
        body = self.stream.read(length - 4)
        if tag == b"E":
            sys.exit(f"discard.py: {body.decode(errors='replace')}")
        return tag, body

    def authentication(self, code):
        tag, body = self.message()
        (found,) = struct.unpack("!i", body[:4])
        if tag != b"R" or found != code:
            sys.exit(f"discard.py: authentication request {found} where {code} was expected")
        return body[4:].decode()

    def log_in(self):
        """SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding."""
        self.authentication(10)
        first = "n=,r=" + base64.b64encode(os.urandom(18)).decode()
        initial = ("n,," + first).encode()
        self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(initial)) + initial)
        challenge = self.authentication(11)
        fields = dict(field.split("=", 1) for field in challenge.split(","))
        salt, rounds = base64.b64decode(fields["s"]), int(fields["i"])
        salted = hashlib.pbkdf2_hmac("sha256", os.environ["PGPASSWORD"].encode(), salt, rounds)
        key = hmac.digest(salted, b"Client Key", "sha256")
        final = f"c=biws,r={fields['r']}"
        signed = ",".join([first, challenge, final]).encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature))
        self.send(b"p", f"{final},p={base64.b64encode(proof).decode()}".encode())
        while self.message()[0] != b"Z":
            pass


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    start, missing = sys.argv[1], int(sys.argv[2])
    server = Server()
    server.log_in()
    server.send(b"Q", f"START_REPLICATION {start} TIMELINE 1".encode() + b"\0")
    buffer = bytearray(READ)
    while missing > 0:
        count = server.socket.recv_into(buffer)
        if count == 0:
            sys.exit("discard.py: the server closed the connection")
        missing -= count


if __name__ == "__main__":
    main()
