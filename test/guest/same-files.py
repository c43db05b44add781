#!/usr/bin/env python3
"""Compares the files of a copy with those of the master at the same cut.

    same-files.py COPY MASTER

Files all of whose names lie below tmp or fsx/tmp may be left out: each KiB of them is zeroes or as the master has it. All
else is the same. A line for each difference, and then one that counts.
"""
import os
import stat
import sys

GRAIN = 1024


def tree(root):
    found = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names + ['.']:
            path = os.path.normpath(os.path.join(folder, name))
            found[os.path.relpath(path, root)] = os.lstat(path)
    return found


def about(path, status):
    fields = [status.st_mode, status.st_ino, status.st_nlink, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, status.st_blocks]
    return fields + [os.readlink(path) if stat.S_ISLNK(status.st_mode) else '']


def may_be_left_out(path):
    return path.startswith(('tmp/', 'fsx/tmp/'))


def differences(ours, theirs, left_out):
    """Of a file: (what is wrong, or None; bytes that are left out)."""
    gone = 0
    with open(ours, 'rb') as a, open(theirs, 'rb') as b:
        at = 0
        while True:
            copy, master = a.read(1 << 20), b.read(1 << 20)
            if copy != master:
                for i in range(0, max(len(copy), len(master)), GRAIN):
                    one, other = copy[i:i + GRAIN], master[i:i + GRAIN]
                    if one == other:
                        continue
                    if not left_out or one != bytes(len(other)):
                        shown = 'zeroes' if one == bytes(len(one)) else repr(one[:60])
                        return 'byte %d: %s instead of %r' % (at + i, shown, other[:60]), gone
                    gone += len(one)
            if not copy:
                return None, gone
            at += len(copy)


def main():
    copy, master = sys.argv[1:]
    ours, theirs = tree(copy), tree(master)
    names = {}
    for path, status in theirs.items():
        names.setdefault(status.st_ino, []).append(path)
    wrong = files = others = gone = 0
    for path in sorted(set(ours) | set(theirs)):
        if path not in ours or path not in theirs:
            what = 'is missing' if path not in ours else 'does not exist on the master'
        elif about(os.path.join(copy, path), ours[path]) != about(os.path.join(master, path), theirs[path]):
            what = 'is %s instead of %s' % (about(os.path.join(copy, path), ours[path]), about(os.path.join(master, path), theirs[path]))
        elif stat.S_ISREG(ours[path].st_mode):
            left_out = all(may_be_left_out(name) for name in names[theirs[path].st_ino])
            files, others = files + 1, others + left_out
            what, missing = differences(os.path.join(copy, path), os.path.join(master, path), left_out)
            gone += missing
            if what is not None:
                what = ('left out, ' if left_out else '') + what
        else:
            what = None
        if what is not None:
            wrong += 1
            if wrong <= 20:
                print('WRONG %s: %s' % (path, what), flush=True)
    print('files %d, of them left out %d, zeroes in them %d, wrong %d' % (files, others, gone, wrong))


main()
