#!/usr/bin/env python3
"""Work of several kinds side by side on the file system of DIRECTORY, until the time is over.

    work.py DIRECTORY SEED SECONDS KIND,KIND... FILES

What the test leaves out lies in tmp and fsx/tmp, all else does not. Every sector of what is written here begins with the
path of its file, so that a byte in the wrong file is found and the left-out ones can be counted on their way.
"""
import ctypes
import mmap
import os
import random
import sqlite3
import subprocess
import sys
import time
import traceback

root, seed, seconds, kinds, files = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4].split(','), sys.argv[5]
end = time.monotonic() + seconds
choose = random.Random(seed)
os.environ.update(HOME='/run', GIT_CONFIG_NOSYSTEM='1', GIT_AUTHOR_NAME='a', GIT_AUTHOR_EMAIL='a@b', GIT_COMMITTER_NAME='a', GIT_COMMITTER_EMAIL='a@b')
serial = 0


def goes_on():
    return time.monotonic() < end


def content(path, sectors):
    global serial
    serial += 1
    return b''.join((b'%s %d %d ' % (path.encode(), serial, i)).ljust(512, b'.') for i in range(sectors))


def inside(*names):
    path = os.path.join(root, *names)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def either():
    return choose.choice(('tmp', 'srv'))


def run(*command, **how):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **how)


def append():
    """A log of each side: a record, and then its fsync."""
    logs = [open(inside(side, 'append/log'), 'ab', buffering=0) for side in ('tmp', 'srv')]
    for log in logs:
        if log.tell() > 4 << 20:
            log.truncate(0)
        log.write(content(log.name, choose.randrange(1, 12)))
        os.fsync(log.fileno())
        log.close()


def before(side):
    path = inside(side, 'before/%d' % choose.randrange(8))
    if not os.path.exists(path):
        with open(path, 'wb') as file:
            file.write(content(path, 2048))
    return path


def rewrite():
    """In place, in files that were there before the mount."""
    path = before(either())
    with open(path, 'r+b', buffering=0) as file:
        file.seek(choose.randrange(0, 256) * 4096)
        file.write(content(path, choose.choice((8, 32, 128))))
        if choose.random() < 0.3:
            os.fsync(file.fileno())


def across():
    """Names come into the rules and leave them: of files, of folders, as second names, in exchange."""
    mine, other = choose.choice((('tmp', 'srv'), ('srv', 'tmp')))
    path = before(mine)
    kind = choose.randrange(5)
    if kind == 0:
        os.rename(path, inside(other, 'across/%d' % choose.randrange(3)))
    elif kind == 1:
        name = inside(other, 'across/link-%d' % choose.randrange(3))
        if os.path.exists(name):
            os.unlink(name)
        os.link(path, name)
    elif kind == 2:
        exchange(path, before(other))
    elif kind == 3:
        for side in ('tmp', 'srv'):
            folder = inside(side, 'folder-of-' + mine)
            if os.path.exists(folder):
                os.rename(folder, inside('srv' if side == 'tmp' else 'tmp', 'folder-of-' + mine))
                break
    else:
        with open(path, 'r+b') as file:
            os.unlink(path)
            file.write(content(path, 64))
            os.fsync(file.fileno())
    if choose.random() < 0.5:
        os.sync()
    time.sleep(choose.uniform(0, 1))


def exchange(one, other):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, one.encode(), -100, other.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), 'renameat2')


def reuse():
    """What was left out is freed, and a chosen file takes its place; and the other way round."""
    mine, other = choose.choice((('tmp', 'srv'), ('srv', 'tmp')))
    path, next_path = before(mine), inside(other, 'reuse/%d' % choose.randrange(6))
    if choose.random() < 0.5:
        os.unlink(path)
    else:
        os.truncate(path, choose.randrange(4) * 65536)
    if choose.random() < 0.5:
        os.sync()
    if choose.random() < 0.3 and os.path.exists(next_path):
        os.unlink(next_path)
    with open(next_path, 'ab', buffering=0) as file:
        if choose.random() < 0.3:
            ctypes.CDLL(None).fallocate(file.fileno(), 0, ctypes.c_long(0), ctypes.c_long(1 << 20))  # ext3 has none
        file.write(content(next_path, choose.choice((1, 40, 1024))))
        if choose.random() < 0.5:
            os.fsync(file.fileno())
        if file.tell() > 2 << 20:
            os.unlink(next_path)
    time.sleep(choose.uniform(0, 0.3))


def named():
    """A new file that is left out: its data, the commit that says whose they are, and at once others in their place."""
    path = inside('tmp', 'named/%d' % choose.randrange(6))
    if os.path.exists(path):
        os.unlink(path)
    with open(path, 'wb', buffering=0) as file:
        file.write(content(path, 256))
        os.fsync(file.fileno())
        for _ in range(4):
            file.seek(0)
            file.write(content(path + ' again', 256))
            os.fsync(file.fileno())


def left_out():
    """Only what was there before, and is left out: for the account of bytes (--kinds left_out,append)."""
    path = before('tmp')
    with open(path, 'r+b', buffering=0) as file:
        for i in range(0, 256, 16):
            file.seek(i * 4096)
            file.write(content(path, 128))
        os.fsync(file.fileno())


def new_files():
    """As a program that keeps intermediate results in files: written, synced, and removed some time later."""
    path = inside('tmp/new/%d' % choose.randrange(6))
    with open(path, 'wb') as file:
        for _ in range(8):
            file.write(content(path, 128))
        file.flush()
        os.fsync(file.fileno())
    time.sleep(0.5)


def untar():
    """Unpacks a tree, and removes another one."""
    side = either()
    target = inside(side, 'untar/%d' % choose.randrange(3))
    subprocess.run(['rm', '-rf', target], check=True)
    os.makedirs(target)
    run('sh', '-c', 'tar -C "$1" -cf - . | tar -C "$2" -xf -', 'sh', files, target)
    # What tar wrote has no path in it: so that it is told from the other side's.
    for folder, _, names in os.walk(target):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, 'r+b') as file:
                size = os.fstat(file.fileno()).st_size
                file.write(content(path, (size + 511) // 512)[:size])
            if not goes_on():
                return


def database():
    """A transaction of each side's database; a crash must not lose it, as sqlite syncs it."""
    for side, journal in (('srv', choose.choice(('delete', 'wal'))), ('tmp', 'delete')):
        connection = sqlite3.connect(inside(side, 'database/db'), timeout=60)
        connection.execute('pragma journal_mode=%s' % journal)
        connection.execute('pragma synchronous=full')
        connection.execute('create table if not exists t (k integer primary key, v blob)')
        for _ in range(4):
            key = choose.randrange(200)
            connection.execute('insert or replace into t values (?, ?)', (key, content(inside(side, 'database/db'), choose.randrange(1, 30))))
            connection.commit()
        connection.close()


def git():
    side = either()
    repository = inside(side, 'git/r')
    if not os.path.exists(repository):
        run('git', 'init', '-q', repository, stderr=subprocess.DEVNULL)
        run('git', '-C', repository, 'config', 'core.fsync', 'all')
    for _ in range(10):
        with open(os.path.join(repository, 'file-%d' % choose.randrange(40)), 'wb') as file:
            file.write(content(file.name, choose.randrange(1, 20)))
    run('git', '-C', repository, 'add', '-A')
    run('git', '-C', repository, 'commit', '-q', '--allow-empty', '-m', 'another')
    if choose.random() < 0.2:
        run('git', '-C', repository, 'repack', '-adq')


def swap():
    """A swap file, which takes the pages of this process."""
    path = inside('tmp/swap/file')
    if not os.path.exists(path):
        with open(path, 'wb') as file:
            for _ in range(16):
                file.write(content(path, 1024))
            os.fsync(file.fileno())
        os.chmod(path, 0o600)
        run('mkswap', path)
    run('swapon', path)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    memory = mmap.mmap(-1, 6 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for _ in range(8):
        if not goes_on():
            break
        page = content(path, 8)
        for at in range(0, len(memory), 4096):
            memory[at:at + 4096] = page
        libc.madvise(address, len(memory), 21)  # MADV_PAGEOUT
        time.sleep(0.3)
        if any(memory[at:at + 4096] != page for at in range(0, len(memory), 4096)):
            sys.exit('a page came back as another one')
    run('swapoff', path)
    if choose.random() < 0.5:
        os.unlink(path)


def resize():
    """Once, in the middle."""
    time.sleep(choose.uniform(0.2, 0.7) * seconds)
    run('resize2fs', '/dev/nbd0', os.environ['size'], stderr=subprocess.DEVNULL)
    while goes_on():
        time.sleep(0.1)


def fsx():
    """Anything at all: see churn.py."""
    for name in ('tmp/file-15', 'tmp/file-16', 'tmp/file-17', 'srv/file-15'):
        path = inside('fsx', name)
        with open(path, 'wb') as file:
            file.write(content(path, 80))
    churn = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'churn.py')
    process = subprocess.Popen([churn, inside('fsx'), str(choose.randrange(1 << 30)), '1000000000'])
    while goes_on():
        time.sleep(0.1)
        if process.poll() is not None:
            sys.exit('churn.py ended with %d' % process.returncode)
    process.terminate()
    process.wait()


def forever(kind):
    global choose
    choose = random.Random('%d %s' % (seed, kind))
    done = 0
    while goes_on():
        try:
            globals()[kind]()
            done += 1
        except FileNotFoundError:
            pass  # another kind of work was faster
        except (OSError, subprocess.CalledProcessError, sqlite3.OperationalError) as error:
            space = os.statvfs(root)
            if space.f_bavail * space.f_frsize > 6 << 20 and space.f_favail > 200:
                raise
            print('GUEST: note %s: %s' % (kind, error), flush=True)
            os.sync()
            time.sleep(0.5)
    print('GUEST: did %s %d' % (kind, done), flush=True)


def main():
    children = {}
    for kind in kinds:
        child = os.fork()
        if child == 0:
            try:
                forever(kind)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children[child] = kind
    bad = 0
    while children:
        child, status = os.wait()
        kind = children.pop(child, None)
        if kind is not None and status != 0:
            print('GUEST: %s ended with status %d' % (kind, status), flush=True)
            bad = 1
    sys.exit(bad)


main()
