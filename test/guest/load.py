#!/usr/bin/env python3
"""Writes whose content tells what belongs where, for guests.

    load.py files FOLDER COUNT     writes and fsyncs files until COUNT.stop is there, counting in COUNT; then reads all
    load.py check FOLDER           every file holds what its name says
    load.py fill DEVICE MB         fills the start of DEVICE through the page cache, then fsyncs
    load.py check-fill DEVICE MB   reads that back, past the page cache
"""
import mmap
import os
import random
import sys

BLOCK = 64 << 10
FILES = 20


def content(seed, length):
    return random.Random(seed).randbytes(length)


def write_file(folder, number, generation):
    """In place, so that ext4's journal, data and metadata are all written; the name's file says which generation."""
    path = os.path.join(folder, f'file-{number}')
    length = 4096 * (1 + generation % 16)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    head = b'%d %d\n' % (generation, length)
    data = head + content(f'{number} {generation}', length)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view):]
    os.ftruncate(descriptor, len(data))
    os.fsync(descriptor)
    os.close(descriptor)


def check(folder):
    seen = 0
    for number in range(FILES):
        path = os.path.join(folder, f'file-{number}')
        if not os.path.exists(path):
            continue
        with open(path, 'rb') as file:
            generation, length = map(int, file.readline().split())
            if file.read() != content(f'{number} {generation}', length):
                sys.exit(f'{path} holds something else')
        seen += 1
    if seen == 0:
        sys.exit('there is nothing to check')


def files(folder, count):
    synced = 0
    while not os.path.exists(count + '.stop'):
        write_file(folder, synced % FILES, synced)
        synced += 1
        with open(count + '.new', 'w') as file:
            file.write(str(synced))
        os.rename(count + '.new', count)
    check(folder)


def tagged(number):
    return number.to_bytes(8, 'little') * (BLOCK // 8)


def fill(device, megabytes):
    descriptor = os.open(device, os.O_WRONLY)
    for number in range((megabytes << 20) // BLOCK):
        if os.write(descriptor, tagged(number)) != BLOCK:
            sys.exit(f'a short write at block {number}')
    os.fsync(descriptor)


def check_fill(device, megabytes):
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
    block = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT wants it
    for number in range((megabytes << 20) // BLOCK):
        if os.readv(descriptor, [block]) != BLOCK or block[:] != tagged(number):
            sys.exit(f'block {number} holds something else')


if __name__ == '__main__':
    action, arguments = sys.argv[1], sys.argv[2:]
    if action == 'files':
        files(*arguments)
    elif action == 'check':
        check(*arguments)
    elif action == 'fill':
        fill(arguments[0], int(arguments[1]))
    elif action == 'check-fill':
        check_fill(arguments[0], int(arguments[1]))
    else:
        sys.exit(__doc__)
