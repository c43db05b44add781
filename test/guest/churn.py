#!/usr/bin/env python3
"""Random operations on the files of DIRECTORY/tmp, which the test leaves out, and DIRECTORY/srv, which it does not.

    churn.py DIRECTORY SEED ROUNDS

Every sector of a file begins with who wrote it, so that a byte in the wrong file is found.
"""
import ctypes
import fcntl
import os
import random
import struct
import sys

root, seed, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
choose = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
PUNCH, COLLAPSE, ZERO, INSERT = 3, 8, 16, 32
GET_FLAGS, SET_FLAGS, TRIM, MOVE_EXTENTS = 0x80086601, 0x40086602, 0xc0185879, 0xc028660f
JOURNAL_DATA, EXCHANGE, RENAMEAT2 = 0x4000, 2, 316
serial = 0


def content(path, sectors):
    global serial
    serial += 1
    return b''.join((b'%s %d %d ' % (path.encode(), serial, i)).ljust(512, b'.') for i in range(sectors))


def files(below):
    return [os.path.join(folder, name) for folder, _, names in os.walk(os.path.join(root, below)) for name in names]


def folders(below):
    return [folder for folder, _, _ in os.walk(os.path.join(root, below))]


def a_file():
    return choose.choice(files(choose.choice(('tmp', 'srv', 'tmp'))) or files('tmp') + files('srv'))


def new_path(below=None):
    global serial
    serial += 1
    return os.path.join(choose.choice(folders(below or choose.choice(('tmp', 'srv')))), 'file-with-a-long-name-%d' % serial)


def write(path, mode, offset=None):
    with open(path, mode) as file:
        if offset is not None:
            file.seek(offset)
        file.write(content(path, choose.choice((1, 8, 40, 200, 600))))
        file.flush()
        if choose.random() < 0.3:
            os.fsync(file.fileno())


def fallocate(path, mode):
    descriptor = os.open(path, os.O_RDWR)
    at = choose.randrange(0, 40) * 16384
    libc.fallocate(descriptor, mode, ctypes.c_long(at), ctypes.c_long(choose.randrange(1, 5) * 16384))
    os.close(descriptor)


def many():
    folder = new_path()
    os.mkdir(folder)
    for i in range(choose.randrange(5, 150)):
        write_small(os.path.join(folder, 'one-of-many-with-a-longer-name-%d' % i))


def write_small(path):
    with open(path, 'wb') as file:
        file.write(content(path, 8))


def fill(folder):
    for i in range(30):
        global serial
        serial += 1
        write_small(os.path.join(folder, 'another-entry-of-a-directory-%d' % serial))


def remove_tree():
    folder = choose.choice(folders('tmp') + folders('srv'))
    if folder in (os.path.join(root, 'tmp'), os.path.join(root, 'srv')):
        return
    for path in [os.path.join(f, name) for f, _, names in os.walk(folder) for name in names]:
        os.unlink(path)
    for one in sorted([f for f, _, _ in os.walk(folder)], reverse=True):
        os.rmdir(one)


held = []


def delete_open():
    path = a_file()
    held.append(open(path, 'r+b'))
    os.unlink(path)
    if len(held) > 3:
        held.pop(0).close()


def rename_folder():
    folder = choose.choice(folders('tmp') + folders('srv'))
    if folder not in (os.path.join(root, 'tmp'), os.path.join(root, 'srv')):
        target = new_path()
        if not (target + '/').startswith(folder + '/'):
            os.rename(folder, target)


def exchange():
    one, other = a_file().encode(), a_file().encode()
    libc.syscall(RENAMEAT2, -100, one, -100, other, EXCHANGE)


def without_name_first():
    """A file that gets its only name late."""
    path = new_path()
    descriptor = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR)
    os.write(descriptor, content(path, choose.choice((8, 40, 200))))
    if choose.random() < 0.5:
        os.fsync(descriptor)
    os.link('/proc/self/fd/%d' % descriptor, path, follow_symlinks=True)
    os.close(descriptor)


def journal_data():
    """chattr +j, -j"""
    descriptor = os.open(a_file(), os.O_RDONLY)
    flags = struct.unpack('l', fcntl.ioctl(descriptor, GET_FLAGS, bytes(8)))[0]
    fcntl.ioctl(descriptor, SET_FLAGS, struct.pack('l', flags ^ JOURNAL_DATA))
    os.close(descriptor)


def swap_blocks():
    """What e4defrag does: two files swap blocks; their data follows."""
    one, other = a_file(), a_file()
    if os.path.samefile(one, other):
        return
    with open(one, 'r+b') as file, open(other, 'r+b') as donor:
        blocks = max(1, choose.randrange(1, 20) * 4096 // os.statvfs(root).f_bsize)
        fcntl.ioctl(file, MOVE_EXTENTS, struct.pack('=IIQQQQ', 0, donor.fileno(), 0, 0, blocks, 0))


def trim_all():
    descriptor = os.open(root, os.O_RDONLY)
    fcntl.ioctl(descriptor, TRIM, struct.pack('QQQ', 0, 1 << 40, 0))
    os.close(descriptor)


def mix():
    return choose.choices(
        (
            lambda: write(new_path(), 'wb'),
            lambda: write(a_file(), 'ab'),
            lambda: write(a_file(), 'r+b', choose.randrange(0, 64) * 4096),
            lambda: write(a_file(), 'wb'),
            lambda: os.unlink(a_file()),
            lambda: os.rename(a_file(), new_path()),
            lambda: os.rename(a_file(), a_file()),
            lambda: os.link(a_file(), new_path()),
            lambda: os.truncate(a_file(), choose.randrange(0, 100) * 4096),
            lambda: fallocate(a_file(), choose.choice((0, PUNCH, COLLAPSE, ZERO, INSERT))),
            many,
            remove_tree,
            delete_open,
            rename_folder,
            os.sync,
            lambda: fill(choose.choice(folders('tmp'))),
            exchange,
            without_name_first,
            journal_data,
            swap_blocks,
            trim_all,
        ),
        (12, 8, 16, 4, 14, 0.5, 0.3, 0.3, 6, 5, 1, 1, 2, 0.2, 8, 1, 0.3, 2, 0.3, 0.4, 0.5),
    )[0]


def certainly():
    """What the test counts on: written in place, freed, renamed out of the rules; each in a transaction of its own."""
    write(os.path.join(root, 'tmp/file-15'), 'r+b', 0)
    os.sync()
    os.unlink(os.path.join(root, 'tmp/file-16'))
    os.sync()
    os.rename(os.path.join(root, 'tmp/file-17'), os.path.join(root, 'srv/renamed'))
    os.sync()


certainly()
for _ in range(rounds):
    try:
        space = os.statvfs(root)
        if space.f_bavail * space.f_frsize < 4 << 20:
            for path in files('tmp')[:10] + files('srv')[:10]:
                os.unlink(path)
        mix()()
    except OSError as error:
        if error.errno == 28:
            os.sync()
    except (IndexError, ValueError):
        pass
