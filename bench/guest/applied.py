#!/usr/bin/env python3
"""applied.py CONTROL_SOCKET COMMAND...: runs the command, its output to standard error, then prints how many seconds passed from its
end until everything that was written is applied on the standby. Started before the command: a program takes long to start in the guest."""
import json
import socket
import subprocess
import sys
import time


def standing(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(b'GET /status HTTP/1.0\r\nHost: understudy\r\n\r\n')
        text = b''.join(iter(lambda: connection.recv(65536), b''))
    volume = json.loads(text.split(b'\r\n\r\n', 1)[1])['volumes'][0]
    return volume['written'], volume['applied']


path, *command = sys.argv[1:]
standing(path)
subprocess.run(command, stdout=sys.stderr, check=True)
ended = time.monotonic()
while len(set(standing(path))) > 1:
    if time.monotonic() > ended + 60:
        sys.exit('not applied within 60 s')
    time.sleep(0.02)
print(f'{time.monotonic() - ended:.3f}')
