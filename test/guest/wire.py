#!/usr/bin/env python3
"""Carries one stream connection between a user-mode-linux guest and the host, over the guest's first serial line.

    host$  wire.py host SOCKET -- linux.uml ... ssl0=fd:@,fd:@    @ becomes the descriptor of the line
    guest$ wire.py guest SOCKET /dev/ttyS0                        one client may connect to SOCKET

The guest has no network that is fast enough (slirp takes 44 ms for a write) and unix sockets do not cross its border.
Frames are type (1 byte), length (2, big-endian), data. The serial driver loses its way when its 4 KiB buffer overflows
towards the guest, so the host sends at most WINDOW bytes before the guest has acknowledged them with an empty frame.
"""
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import tty

HEADER = struct.Struct('>cH')
DATA, ACKNOWLEDGE, CLOSE = b'D', b'A', b'C'
WINDOW = 2048
CHUNK = 16384


class Line:
    """Frames in both directions over a descriptor."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.buffer = b''

    def send(self, kind, data=b''):
        rest = memoryview(HEADER.pack(kind, len(data)) + data)
        while rest:
            try:
                rest = rest[os.write(self.descriptor, rest):]
            except BlockingIOError:
                select.select([], [self.descriptor], [])

    def frames(self):
        """All complete frames after one read; None at the end of the line."""
        data = os.read(self.descriptor, 65536)
        if not data:
            return None
        self.buffer += data
        found = []
        while len(self.buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self.buffer)
            if len(self.buffer) < HEADER.size + length:
                break
            found.append((kind, self.buffer[HEADER.size:HEADER.size + length]))
            self.buffer = self.buffer[HEADER.size + length:]
        return found


def host(path, command):
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    command = [word.replace('fd:@', f'fd:{theirs.fileno()}') for word in command]
    guest = subprocess.Popen(command, close_fds=False, stdin=subprocess.DEVNULL)
    theirs.close()
    signal.signal(signal.SIGTERM, lambda *_: guest.kill())
    line, server, credit = Line(ours.fileno()), None, True
    while True:
        # Towards the guest nothing is read that may not be sent yet.
        watched = [ours] + ([server] if server is not None and credit else [])
        ready, _, _ = select.select(watched, [], [], 0.5)
        if ours in ready:
            frames = line.frames()
            if frames is None:
                break
            for kind, data in frames:
                if kind == ACKNOWLEDGE:
                    credit = True
                elif kind == CLOSE and server is not None:
                    server.close()
                    server = None
                elif kind == DATA:
                    if server is None:
                        server = connect(path)
                    server.sendall(data)
        if server is not None and server in ready:
            data = server.recv(WINDOW)
            if data:
                line.send(DATA, data)
                credit = False
            else:
                line.send(CLOSE)
                server.close()
                server = None
        if not ready and guest.poll() is not None:
            break
    sys.exit(guest.wait())


def connect(path):
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    return server


def guest(path, device):
    descriptor = os.open(device, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(descriptor, termios.TCSANOW)
    line = Line(descriptor)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    client, _ = listener.accept()
    # The server speaks first in NBD: an empty frame makes the host connect.
    line.send(DATA)
    while True:
        ready, _, _ = select.select([client, descriptor], [], [])
        if descriptor in ready:
            for kind, data in line.frames() or []:
                if kind == CLOSE:
                    return
                client.sendall(data)
                line.send(ACKNOWLEDGE)
        if client in ready:
            data = client.recv(CHUNK)
            if not data:
                line.send(CLOSE)
                return
            line.send(DATA, data)


if __name__ == '__main__':
    if len(sys.argv) > 4 and sys.argv[1] == 'host' and sys.argv[3] == '--':
        host(sys.argv[2], sys.argv[4:])
    elif len(sys.argv) == 4 and sys.argv[1] == 'guest':
        guest(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
