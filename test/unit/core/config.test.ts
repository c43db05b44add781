import { linkSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'

import { loadConfig, readConfigText } from '../../../src/core/config.js'
import { ConfigError, exitCodeOf } from '../../../src/core/errors.js'
import { lineOfKey } from '../../../src/core/toml-lines.js'
import { deviceProblems } from '../../../src/daemon/preflight.js'

const id = 'ab'.repeat(32)

const complete = `
state = "/var/lib/understudy"
[metrics]
listen = "127.0.0.1:0"
[nbd]
listen = ["unix:/run/nbd.sock", "127.0.0.1:10809"]
unix_mode = "0660"
unix_group = "qemu"
[standby]
store = "/srv/store"
listen = "0.0.0.0:7400"
allow = ["${id}"]
[standby.devices]
disk7 = "/dev/none/disk7"
[[group]]
name = "vm1"
standby = "${id}@standby.example:7400"
durability = "durable"
on_standby_loss = "block:30s"
max_lag = "1GiB,2min"
on_max_lag = "detach"
log_size = "1GiB"
peer_timeout = "2s"
lease = "10s"
packet_size = 1350
bandwidth = "50MiB/s"
compress = "lz4"
resync_rate = "20MB"
drain_timeout = 10
[[group.volume]]
export = "disk1"
device = "disk1.img"
replicate = ["partition=2", "partition=1"]
exclude = ["0-1MiB"]
exclude_files = ["/swap"]
only_files = ["partition=2:/srv/**"]
filter_fallback = "all"
[[group.volume]]
export = "disk2"
device = "/dev/none/disk2"
read_only = true
[[group]]
[[group.volume]]
export = "alone"
device = "/dev/none/alone"
`

/** The messages of all problems of a text. */
const problemsOf = (text: string): string[] => readConfigText(text, 'u.toml').problems.map(problem => problem.message)

/** `complete` with one line replaced, and the line's number. */
function edited(before: string, after: string): { text: string; line: number } {
  const lines = complete.split('\n')
  const index = lines.indexOf(before)
  if (index < 0) throw new Error(`no line '${before}'`)
  lines.splice(index, 1, ...after.split('\n'))
  return { text: lines.join('\n'), line: index + after.split('\n').length }
}

t.test('a complete file gives a complete configuration, with the defaults filled in', async t => {
  const { config, problems } = readConfigText(complete, '/etc/understudy/u.toml')
  t.same(problems, [])
  t.same(config.nbd, {
    listen: [
      { kind: 'unix', path: '/run/nbd.sock' },
      { kind: 'tcp', host: '127.0.0.1', port: 10809 },
    ],
    insecure: false,
    connectionsMax: 1024,
    unixMode: 0o660,
    unixGroup: 'qemu',
  })
  const [vm1, alone] = config.groups
  t.match(vm1, {
    name: 'vm1',
    durability: 'durable',
    standbyLoss: { policy: 'block', blockMs: 30_000 },
    maxLag: { bytes: 2 ** 30, milliseconds: 120_000 },
    onMaxLag: 'detach',
    logBytes: 2 ** 30,
    peerTimeoutMs: 2000,
    leaseMs: 10_000,
    packetBytesMax: 1350,
    bandwidth: 50 << 20,
    compress: 'lz4',
    resyncRate: 20e6,
    drainTimeoutMs: 10_000,
  })
  t.same(vm1?.volumes[0], {
    name: 'disk1',
    device: '/etc/understudy/disk1.img',
    readOnly: false,
    direct: false,
    partitions: [1, 2],
    exclude: [{ start: 0n, end: 1n << 20n }],
    files: { exclude: ['/swap'], only: ['partition=2:/srv/**'], fallback: 'all' },
  })
  t.match(alone, {
    name: 'alone',
    standby: undefined,
    durability: 'flush',
    standbyLoss: { policy: 'continue' },
    maxLag: { bytes: 0, milliseconds: 0 },
    onMaxLag: 'block',
    logBytes: 256 << 20,
    peerTimeoutMs: 5000,
    leaseMs: undefined,
    bandwidth: 0,
    compress: 'off',
    resyncRate: 0,
    transport: 'quic',
  })
  t.same([...(config.standby?.devices ?? [])], [['disk7', '/dev/none/disk7']])
  t.equal(config.file, '/etc/understudy/u.toml')
})

t.test('what is wrong is said in one line with file, line and key', async t => {
  const cases: [string, string, RegExp][] = [
    [
      'unix_mode = "0660"',
      'unix_mod = "0660"',
      /key 'nbd.unix_mod': there is no such key \(did you mean 'unix_mode'\?\)/,
    ],
    ['unix_mode = "0660"', 'unix-mode = "0660"', /did you mean 'unix_mode'/],
    ['unix_mode = "0660"', 'unix_mode = 660', /key 'nbd.unix_mode': it must be a string, not the number 660/],
    [
      'durability = "durable"',
      'durability = "durabel"',
      /key 'group.durability': 'durabel' is not one of .*did you mean 'durable'/,
    ],
    ['durability = "durable"', 'durability = true', /key 'group.durability': it must be a string, not true/],
    ['log_size = "1GiB"', 'log_file = "/srv/log"\n', /key 'group.log_size': it is missing; with a log file/],
    ['log_size = "1GiB"', 'log_file = "log"\nlog_size = "1GiB"', /key 'group.log_file': 'log' is not an absolute path/],
    ['log_size = "1GiB"', 'log_size = "1MiB"', /key 'group.log_size': 1MiB is too small.*80 MiB/],
    ['peer_timeout = "2s"', 'scrub_every = "10ms"', /key 'group.scrub_every': '10ms': it must be at least 1s/],
    ['lease = "10s"', 'lease = "1999ms"', /key 'group.lease': '1999ms': it must be between 2s and 1h/],
    ['lease = "10s"', 'lease = "61min"', /key 'group.lease': '61min': it must be between 2s and 1h/],
    [
      'device = "/dev/none/alone"',
      'device = "/dev/none/alone"\n[[group]]\nlease = "5s"\n[[group.volume]]\nexport = "no"\ndevice = "/dev/none/no"',
      /key 'group.lease': there is no standby/,
    ],
    ['peer_timeout = "2s"', 'peer_timeout = "soon"', /key 'group.peer_timeout': 'soon' is not a duration/],
    ['read_only = true', 'read_only = "yes"', /key 'group.volume.read_only': it must be true or false, not a string/],
    ['read_only = true', 'colour = 1', /key 'group.volume.colour': there is no such key \(known here: export, device/],
    ['export = "disk2"', 'export = "disk1"', /key 'group.volume.export': there are two volumes with the name 'disk1'/],
    ['export = "disk2"', 'export = "../up"', /begins with a dot/],
    [
      'device = "/dev/none/disk2"',
      'device = "/dev/none/disk7"',
      /'\/dev\/none\/disk7' is also the device of the standby's volume 'disk7'/,
    ],
    [
      'store = "/srv/store"',
      'store = "/srv/store"\nstaging_size = "1MiB"',
      /key 'standby.staging_size': 1MiB is too small.*40 MiB/,
    ],
    ['store = "/srv/store"', '', /key 'standby.store': it is missing/],
    ['listen = "0.0.0.0:7400"', 'listen = "0.0.0.0"', /key 'standby.listen': '0.0.0.0' is not HOST:PORT/],
    [`allow = ["${id}"]`, 'allow = ["me"]', /key 'standby.allow': 'me' is not an id/],
    [
      'listen = ["unix:/run/nbd.sock", "127.0.0.1:10809"]',
      'listen = ["0.0.0.0:10809"]',
      /key 'nbd.listen': .*unencrypted NBD.*insecure = true/,
    ],
    [
      'listen = ["unix:/run/nbd.sock", "127.0.0.1:10809"]',
      'listen = [\n  "unix:/a",\n  7\n]',
      /key 'nbd.listen': it must be a list of strings/,
    ],
    [`standby = "${id}@standby.example:7400"`, 'standby = "h:1"', /key 'group.standby': 'h:1' is not ID@HOST:PORT/],
    [
      'replicate = ["partition=2", "partition=1"]',
      'replicate = ["partition=0"]',
      /key 'group.volume.replicate': 'partition=0'/,
    ],
    ['exclude = ["0-1MiB"]', 'exclude = ["1MiB-0"]', /key 'group.volume.exclude': range '1MiB-0' is empty/],
    ['filter_fallback = "all"', 'filter_fallback = "none"', /key 'group.volume.filter_fallback': 'none' is not one of/],
    ['name = "vm1"', '', /key 'group.name': it is missing; a group of several volumes/],
    ['name = "vm1"', 'name = "alone"', /key 'group.(name|volume)': there are two groups with the name 'alone'/],
  ]
  for (const [before, after, expected] of cases) {
    const { text, line } = edited(before, after)
    const [problem, ...more] = problemsOf(text)
    t.match(problem, expected, after || `without ${before}`)
    t.same(more, [], 'and nothing else')
    t.notMatch(problem, /\n/)
    if (after !== '' && !after.includes('\n') && !after.includes('alone'))
      t.ok(problem?.startsWith(`u.toml:${line}: `), `${problem} is line ${line}`)
  }
})

t.test('all problems are found, not only the first', async t => {
  t.equal(problemsOf('stat = 1\n[nbd]\nlisten = 5\n[[group]]\n[[group.volume]]\n').length > 4, true)
})

t.test('a file that would do nothing, or that nobody could reach, is refused', async t => {
  t.match(problemsOf('state = "/s"'), [/nothing to do/])
  t.match(problemsOf('state = "/s"\n[[group]]\n[[group.volume]]\nexport="a"\ndevice="/x"'), [
    /key 'nbd.listen': it is missing/,
  ])
})

t.test('a syntax error has its line', async t => {
  t.throws(() => readConfigText('state = "/s"\nlisten = [\n', 'u.toml'), { message: /^u\.toml:\d+: not valid TOML: / })
  t.throws(() => readConfigText('state = "/s"\nstate = "/t"', 'u.toml'), { message: /^u\.toml:2: not valid TOML: / })
})

t.test('a missing file is wrong usage, exit code 2', async t => {
  try {
    loadConfig('/nonexistent/u.toml')
    t.fail('it was read')
  } catch (error) {
    t.ok(error instanceof ConfigError)
    t.equal(exitCodeOf(error), 2)
    t.match((error as Error).message, /^\/nonexistent\/u\.toml: cannot read the configuration: it does not exist/)
  }
})

t.test('keys are found on their line whatever stands around them', async t => {
  const text = [
    'a = """',
    '[fake]',
    'b = 1',
    '"""',
    "'quoted key' = '#'",
    '[t] # comment',
    'list = [ # [',
    '  "x]",',
    '  "y" ]',
    'c.d = 1',
    '[[g]]',
    'x = 1',
    '[[g.v]]',
    'x = 1',
    '[[g.v]]',
    'x = 1',
    '[[g]]',
    'y = { z = 1 }',
    '[[g.v]]',
    'x = 1',
  ].join('\n')
  t.equal(lineOfKey(text, ['a']), 1)
  t.equal(lineOfKey(text, ['b']), undefined)
  t.equal(lineOfKey(text, ['quoted key']), 5)
  t.equal(lineOfKey(text, ['t', 'list']), 7)
  t.equal(lineOfKey(text, ['t', 'c', 'd']), 10)
  t.equal(lineOfKey(text, ['g', 0, 'v', 1, 'x']), 16)
  t.equal(lineOfKey(text, ['g', 1, 'v', 0, 'x']), 20)
  t.equal(lineOfKey(text, ['g', 1, 'y', 'z']), 18)
  t.equal(lineOfKey(text, ['g', 1, 'missing']), 17, 'the table where it is missing')
})

t.test('one device under two names is found: symbolic link in the text, hard link on disk', async t => {
  const directory = mkdtempSync(join(tmpdir(), 'config-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  writeFileSync(join(directory, 'a'), 'x'.repeat(4096))
  symlinkSync('a', join(directory, 'b'))
  linkSync(join(directory, 'a'), join(directory, 'c'))
  const text = (other: string): string => `
state = "s"
nbd.listen = "unix:n"
[[group]]
volume = [{ export = "one", device = "a" }]
[[group]]
volume = [{ export = "two", device = "${other}" }]
`
  const file = join(directory, 'u.toml')
  t.match(
    readConfigText(text('b'), file).problems[0]?.message,
    /u\.toml:7: key 'group.volume.device': .* is also the device of volume 'one'/,
  )
  const { config, problems } = readConfigText(text('c'), file)
  t.same(problems, [])
  t.match(deviceProblems(config), [/volume 'two': device .*\/c: it is also the device of volume 'one'/])
  t.match(deviceProblems(readConfigText(text('none'), file).config), [
    /volume 'two': device .*\/none: it does not exist \(ENOENT\)/,
  ])
  t.match(deviceProblems(readConfigText(text('.'), file).config), [/it is a directory/])
})
