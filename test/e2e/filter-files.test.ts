// timeout: 60
/** `understudy filter --explain` on a master that serves a disk with file systems: what it says, and that it says no. */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { FilterReply } from '../../src/daemon/control-protocol.js'
import { becomes, command, scratch, sparseFile, startPair, succeed, understudy } from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'

const MiB = 1 << 20

/** Partition 1: ext4 with a tree of files; 2: swap; 3: LUKS, or what looks like it; 4: FAT with one file. */
async function disk(files: ReturnType<typeof scratch>): Promise<string> {
  const path = await sparseFile(files.path('disk.img'), 64 * MiB)
  const swap = await sparseFile(files.path('swap.img'), 8 * MiB)
  const script = [
    `printf 'label: gpt\\nstart=1MiB,size=24MiB\\nstart=26MiB,size=8MiB\\nstart=36MiB,size=2MiB\\nstart=38MiB,size=4MiB\\n' | sfdisk -q ${path}`,
    `mkdir -p ${files.path('tree')}/var/tmp ${files.path('tree')}/srv/db`,
    `cd ${files.path('tree')}`,
    'head -c 2097152 /dev/zero | tr "\\\\0" X >var/tmp/scratch',
    'head -c 1048576 /dev/zero | tr "\\\\0" Y >srv/db/table',
    'head -c 65536 /dev/zero | tr "\\\\0" Z >var/tmp/linked; ln var/tmp/linked srv/linked',
    `mke2fs -q -F -t ext4 -b 4096 -L root -d . -E offset=1048576 ${path} 24M`,
    `mkswap -q ${swap}`,
    `dd if=${swap} of=${path} bs=1M seek=26 conv=notrunc status=none`,
    `head -c 300000 /dev/zero | tr "\\\\0" F >'${files.path('a picture.jpg')}'`,
    `truncate -s 4M ${files.path('fat.img')}; mkfs.fat -n CARD ${files.path('fat.img')} >/dev/null`,
    `mcopy -i ${files.path('fat.img')} '${files.path('a picture.jpg')}' ::/`,
    `dd if=${files.path('fat.img')} of=${path} bs=1M seek=38 conv=notrunc status=none`,
  ]
  await succeed('sh', ['-ec', `PATH=$PATH:/usr/sbin; ${script.join('\n')}`])
  const fd = openSync(path, 'r+')
  writeSync(fd, Buffer.from('LUKS\xba\xbe\0\x01', 'latin1'), 0, 8, 36 * MiB)
  closeSync(fd)
  return path
}

t.test('filter --explain shows file systems, files and bytes, warns, and refuses what it cannot do', async t => {
  const device = await disk(scratch(t))
  const before = readFileSync(device)
  const pair = await startPair(t, { device, master: ['--exclude', '44MiB-64MiB'] })
  const filter = (...flags: string[]): ReturnType<typeof command> =>
    command(['filter', pair.volume, '--state', pair.master.state, ...flags])

  const shown = await filter('--explain', '--exclude-files', '/var/tmp/**', '--exclude-files', 'partition=2:/swap', '--exclude-files', '/none') // prettier-ignore
  t.equal(shown.code, 0)
  for (const line of [
    /partition 1: ext4 'root', 24 MiB/,
    /--exclude-files '\/var\/tmp\/\*\*' matches 2 files, leaves out 2 MiB; 1 of them with 64 KiB are replicated all the same/,
    /2 MiB {2}\/var\/tmp\/scratch/,
    /partition 2: swap, 8 MiB/,
    /partition 4: vfat 'CARD', 4 MiB\n {4}1 file with 293 KiB/,
    /partition 3: luks, 2 MiB\n {4}all of it is replicated: it is encrypted/,
    /left out already, by --replicate and --exclude: 20 MiB/,
  ])
    t.match(shown.stdout, line)
  t.match(shown.stderr, /^understudy: warning: --exclude-files '\/none' matches nothing\n$/)

  const document = JSON.parse((await filter('--explain', '--json', '--only-files', '/srv/db/**')).stdout) as FilterReply
  const swapBytes = 8 * MiB - 4096
  t.equal(document.leftOutByFiles, 2 * MiB + 65536 + swapBytes + 300_000, 'of what is read, all but the chosen file')
  t.match(document.fileSystems[3]?.remarks, [/vfat cannot be followed .*: no rule for them can be in force/])
  t.equal(document.leftOutByRanges, 20 * MiB)
  t.match(document.rules, [{ kind: 'only', files: 1, bytes: MiB, largest: [{ path: '/srv/db/table' }] }])

  const refused: [string[], RegExp][] = [
    [['--exclude-files', '/a'], /one of --explain, --apply and --dry-run is needed/],
    [['--explain', '--exclude-files', 'a'], /absolute path/],
    [['--apply', '--exclude', '0-4096', '--watch'], /--watch goes with --explain/],
  ]
  for (const [flags, line] of refused) {
    const output = await filter(...flags)
    t.equal(output.code, 2, flags.join(' '))
    t.match(output.stderr, line)
  }
  const elsewhere = await command(['filter', pair.volume, '--state', pair.standby.state, '--explain'])
  t.equal(elsewhere.code, 1)
  t.match(elsewhere.stderr, /not the master of a volume .*; ask the daemon of its master/)
  t.ok(before.equals(readFileSync(device)), 'the device is as it was')

  const watching = ['--explain', '--watch', '--json', '--exclude-files', 'partition=2:/swap']
  const watcher = understudy(t, 'watcher', ['filter', pair.volume, '--state', pair.master.state, ...watching])
  const accounts = (): FilterReply[] =>
    watcher.stdout.split('\n').slice(0, -1).map(line => JSON.parse(line) as FilterReply) // prettier-ignore
  await becomes(t, '--watch shows the account', () => accounts().length === 1)
  await sleep(1500)
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  t.equal((await client.write(26 * MiB, Buffer.alloc(4096))).error, 0)
  await becomes(t, '... and again when there is no swap area any more', () => accounts().at(-1)?.leftOutByFiles === 0)
  watcher.signal('SIGINT')
  t.match(await watcher.gone(), { code: 0, signal: null }, 'Ctrl-C ends it')
  t.same(accounts().map(({ leftOutByFiles }) => leftOutByFiles), [swapBytes, 0], 'only what has changed') // prettier-ignore
  client.destroy()
})
