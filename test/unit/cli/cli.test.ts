/** The real program, run to its end: exit codes and what it says when something is wrong. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

import { createProgram, runProgram } from '../../../src/cli/program.js'
import { statusTable } from '../../../src/cli/status-table.js'
import { createLogger } from '../../../src/core/log.js'
import { MAIN } from '../../../src/core/root.js'
import type { StatusDocument } from '../../../src/core/status-types.js'
import { ControlServer, type Routes } from '../../../src/daemon/control-server.js'
import { masterStatus } from '../metrics/fake-source.js'

const id = 'ab'.repeat(32)

interface Outcome {
  code: number | null
  stdout: string
  stderr: string
}

/** The same command line without a process of its own, where it must not get as far as doing anything. */
async function refused(args: string[]): Promise<{ code: number; complaints: string[] }> {
  const complaints: string[] = []
  const code = await runProgram(createProgram(), ['node', 'understudy', ...args], line => complaints.push(line))
  return { code, complaints }
}

async function understudy(...args: string[]): Promise<Outcome> {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const outcome: Outcome = { code: null, stdout: '', stderr: '' }
  child.stdout.on('data', data => (outcome.stdout += String(data)))
  child.stderr.on('data', data => (outcome.stderr += String(data)))
  const [code] = (await once(child, 'close')) as [number | null]
  return { ...outcome, code }
}

function scratch(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'cli-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** A daemon that only answers. */
async function answering(t: Test, routes: Routes): Promise<string> {
  const state = scratch(t)
  const server = await ControlServer.open(
    join(state, 'control.sock'),
    routes,
    createLogger('test', () => undefined),
  )
  t.teardown(() => server.close())
  return state
}

t.test('wrong usage is one line on stderr and exit code 2, and nothing is written', async t => {
  const directory = scratch(t)
  const state = join(directory, 'state')
  const device = join(directory, 'disk.img')
  const master = ['master', '--state', state, '--device', device, '--export', 'disk']
  const standby = ['standby', '--state', state, '--store', join(directory, 'store'), '--listen', '127.0.0.1:0']
  const cases: [string[], RegExp][] = [
    [['mastre'], /unknown command 'mastre' \(Did you mean master\?\)/],
    [['master', '--stat', state], /unknown option '--stat' \(Did you mean --state\?\)/],
    [['master', '--state', state, '--listen', 'unix:x'], /master: --device and --export are missing/],
    [[...master, '--listen', '0.0.0.0:10809'], /--listen: .* unencrypted NBD to other hosts.*--insecure/],
    [[...master, '--listen', '/run/x.sock'], /--listen: .*written unix:\/run\/x\.sock/],
    [
      [...master, '--listen', 'unix:x', '--durability', 'flsh'],
      /--durability: 'flsh' is not one of async, flush, received, durable \(did you mean 'flush'\?\)/,
    ],
    [
      [...master, '--listen', 'unix:x', '--on-standby-loss', 'cry'],
      /--on-standby-loss: 'cry' is not one of continue, block, block:TIME/,
    ],
    [
      [...master, '--listen', 'unix:x', '--on-standby-loss', 'block:soon'],
      /--on-standby-loss: 'soon' is not a duration/,
    ],
    [[...master, '--listen', 'unix:x', '--max-lag', '2m'], /--max-lag: '2m': megabytes or minutes\?/],
    [[...master, '--listen', 'unix:x', '--max-lag', '1k'], /--max-lag: '1k': less than 64KiB/],
    [[...master, '--listen', 'unix:x', '--on-max-lag', 'block'], /--on-max-lag: .* beyond max_lag/],
    [[...master, '--listen', 'unix:x', '--bandwidth', '5'], /--bandwidth: '5' is less than 1KiB a second/],
    [[...master, '--listen', 'unix:x', '--standby', 'host:1'], /--standby: 'host:1' is not ID@HOST:PORT/],
    [[...master, '--listen', 'unix:x', '--log-size', '1'], /--log-size: 1 is too small/],
    [[...master, '--listen', 'unix:x', '--replicate', '1'], /--replicate: '1' is not a partition/],
    [[...master, '--listen', 'unix:x', '--exclude', '5'], /--exclude: '5' is not a range/],
    [[...master, '--listen', 'unix:x', '--metrics', '9100'], /--metrics: '9100' is not HOST:PORT/],
    [[...master, '--listen', 'unix:x', '--unix-mode', '9'], /--unix-mode: '9' is not a file mode/],
    [standby, /standby: --allow is missing/],
    [[...standby, '--allow', 'me'], /--allow: 'me' is not an id/],
    [[...standby, '--allow', id, '--device', 'x'], /--device.*It is written VOLUME=PATH/],
    [[...standby, '--allow', id, '--history', '10m'], /--history: '10m': megabytes or minutes\?/],
    [[...standby, '--allow', id, '--history', '1MiB'], /--history: 1MiB is too small: .* 256 MiB/],
    [[...standby, '--allow', id, '--history', '0s'], /--history: '0s' keeps nothing; write it like 24h, 100GiB/],
    [[...standby, '--allow', id, '--history', '24h,1d'], /--history: '24h,1d' says it twice/],
    [[...standby, '--allow', id, '--history', 'all'], /--history: 'all' is not a size/],
    [['mark', 'disk'], /missing required argument 'label'/],
    [['find', 'disk'], /find: --check is missing/],
    [
      ['find', 'disk', '--check', 'true', '--points', 'marks'],
      /--points marks: it is not one of mark, clean-stop, flush/,
    ],
    [['find', 'disk', '--check', 'true', '--timeout', 'x'], /'x' is not a duration/],
    [['export', 'disk', '--listen', 'unix:x', '--at', ' '], /export: --at is empty/],
    [
      ['export', 'disk', '--to', 'x', '--at', '-1h'],
      /export: --to is of the copy as it is now; .* needs --listen, and nbdcopy/,
    ],
    [['export', 'disk', '--to', 'x', '--writable'], /export: --to serves nothing; --writable does not go with it/],
    [['export', 'disk', '--to', 'x', '--tls', 'on'], /export: --to serves nothing; --tls does not go with it/],
    [['export', 'disk', '--to', 'x', '--tls-psk', 'y'], /--to serves nothing; --tls-... does not go with it/],
    [['wait', 'disk'], /wait: --for is missing; one of protected, drained, usable/],
    [['wait', 'disk', '--for', 'ever'], /'ever' is invalid. Allowed choices are protected, drained, usable/],
    [['wait', 'disk', '--for', 'usable', '--timeout', 'long'], /'long' is not a duration/],
    [['export', 'disk', '--state', state], /export: --listen is missing/],
    [['run', '--config', join(directory, 'none.toml')], /none\.toml: cannot read the configuration: it does not exist/],
    [['check-config'], /missing required argument 'file'/],
  ]
  for (const [args, expected] of cases) {
    const { code, complaints } = await refused(args)
    t.equal(code, 2, args.join(' '))
    t.equal(complaints.length, 1, 'one line')
    t.match(complaints[0], expected)
    t.match(complaints[0], /^understudy: [^\n]*$/)
  }
  t.match(await understudy('master', '--bogus'), {
    code: 2,
    stdout: '',
    stderr: /^understudy: unknown option '--bogus'[^\n]*\n$/,
  })
  t.same(readdirSync(directory), [])
})

t.test('a device that is missing or none fails with exit code 1, named, before anything is written', async t => {
  const directory = scratch(t)
  const master = [
    'master',
    '--state',
    join(directory, 'state'),
    '--export',
    'disk',
    '--listen',
    `unix:${directory}/nbd`,
  ]
  const missing = await understudy(...master, '--device', join(directory, 'disk.img'))
  t.match(missing, {
    code: 1,
    stderr: /^understudy: volume 'disk': device .*disk\.img: it does not exist \(ENOENT\)\n$/,
  })
  const wrong = await understudy(...master, '--device', directory)
  t.match(wrong, { code: 1, stderr: /^understudy: volume 'disk': device .*: it is a directory\n$/ })
  t.same(readdirSync(directory), [])
})

t.test('check-config prints every problem with line and key, or the plan', async t => {
  const file = join(scratch(t), 'u.toml')
  writeFileSync(
    file,
    'state = "s"\n[nbd]\nlisten = "unix:n"\ncolour = 1\n[[group]]\ndurabilty = "flush"\n[[group.volume]]\nexport = "disk"\ndevice = "none.img"\n',
  )
  const wrong = await understudy('check-config', file)
  t.equal(wrong.code, 2)
  t.match(wrong.stderr, /u\.toml:4: key 'nbd\.colour': there is no such key/)
  t.match(wrong.stderr, /u\.toml:6: key 'group\.durabilty': there is no such key \(did you mean 'durability'\?\)/)
  writeFileSync(
    file,
    'state = "s"\n[nbd]\nlisten = "unix:n"\n[[group]]\n[[group.volume]]\nexport = "disk"\ndevice = "disk.img"\nexclude = "0-1MiB"\n',
  )
  t.match(await understudy('check-config', file), {
    code: 2,
    stderr: /volume 'disk': device .*disk\.img: it does not exist/,
  })
  writeFileSync(join(file, '..', 'disk.img'), 'x')
  const right = await understudy('check-config', file)
  t.match(right, { code: 0, stderr: '' })
  t.match(
    right.stdout,
    /master of group disk: without a standby, durability flush, on standby loss continue, log 256 MiB/,
  )
  t.match(right.stdout, /volume disk on .*disk\.img, without 0-1048576/)
  t.notOk(existsSync(join(file, '..', 's')), 'nothing was made')
})

t.test('every command explains itself with an example', async t => {
  const commands = [
    'run',
    'master',
    'standby',
    'identity',
    'status',
    'wait',
    'export',
    'promote',
    'verify',
    'check-config',
  ]
  for (const outcome of await Promise.all(commands.map(command => understudy(command, '--help')))) {
    t.equal(outcome.code, 0)
    t.match(outcome.stdout, /^Usage: understudy \S+[^]*Example: understudy /)
    t.equal(outcome.stderr, '')
  }
  const whole = await understudy('--help')
  for (const command of commands) t.match(whole.stdout, new RegExp(`^  ${command} `, 'm'))
  t.match(await understudy('--version'), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/ })
  t.match(await understudy(), { code: 2, stdout: '' })
})

const replicating: StatusDocument = {
  volumes: [
    {
      ...masterStatus,
      name: 'disk',
      group: 'disk',
      state: 'replicating',
      protected: true,
      usable: true,
      written: '3',
      applied: '3',
      sizeBytes: 1 << 30,
    },
  ],
}

t.test('status: a table, a document, and a check', async t => {
  let document = replicating
  const state = await answering(t, { 'GET /status': () => ({ document }) })
  const table = await understudy('status', '--state', state)
  t.match(table, {
    code: 0,
    stdout: /^VOLUME +GROUP +ROLE +STATE[^]*\ndisk +- +master +replicating +yes +yes +0 +0 B +1 GiB/,
  })
  const json = await understudy('status', '--json', '--state', state)
  t.same(JSON.parse(json.stdout), document)
  t.match(await understudy('status', '--check', '--state', state), { code: 0, stdout: 'protected: disk\n' })
  document = {
    volumes: [
      ...document.volumes,
      { ...masterStatus, name: 'other', state: 'detached', protected: false, reason: 'the standby is away' },
    ],
  }
  t.match(await understudy('status', '--check', '--state', state), {
    code: 1,
    stdout: '',
    stderr: 'understudy: status: not protected: other is detached (the standby is away)\n',
  })
  t.equal((await understudy('status', '--state', state)).code, 0)
})

t.test('the table says what needs saying beneath a volume', async t => {
  const [volume] = replicating.volumes
  const syncing = {
    ...(volume ?? masterStatus),
    state: 'initial-sync' as const,
    reason: 'first copy',
    since: '2026-01-01T00:00:00Z',
    protected: false,
    usable: false,
  }
  const resync = { doneBytes: 1 << 28, totalBytes: 1 << 30, rate: 1 << 26, etaSeconds: 12 }
  const peers = [{ id, address: 'h:1', session: 'connected' as const, rttSeconds: 0.00025 }]
  const text = statusTable(
    { volumes: [{ ...syncing, resync, peers, lagBytes: 4096, lagSeconds: 1.5 }] },
    new Date('2026-01-01T00:02:00Z'),
  )
  t.match(text, /NO +NO +4 KiB 1\.5 s +0 B +1 GiB +abababab connected 0\.25 ms$/m)
  t.match(text, /^ {2}first copy \(for 2m 00s\)$/m)
  t.match(text, /^ {2}25 % of 1 GiB at 64 MiB\/s, 12\.0 s left$/m)
  t.equal(statusTable({ volumes: [] }, new Date()), 'no volumes yet')
  const lease = { seconds: 10, secondsLeft: 4, inForce: true }
  const filter = {
    keys: ['exclude = ["0-4096"]'],
    leftOutByRanges: 4096,
    leftOutBytes: 1024,
    rangeCount: 1,
    savedBytes: 0,
    savedNotChosenBytes: 0,
  }
  const filtered = {
    ...syncing,
    filter: { ...filter, rules: [], replicatedWhole: [{ place: 'partition 1', why: 'luks' }] },
  }
  t.match(
    statusTable({ volumes: [filtered] }, new Date()),
    /^ {2}leaves out 5 KiB: exclude = \["0-4096"\]; file systems that are replicated whole: 1$/m,
  )
  const away = [{ id, address: 'h:1', session: 'away' as const, rttSeconds: null }]
  const leased = (changes: object): string =>
    statusTable({ volumes: [{ ...syncing, lease, peers: away, ...changes }] }, new Date())
  t.match(leased({}), /^ {2}the lease runs out in 4\.0 s: clients wait from then on$/m)
  t.match(leased({ role: 'standby' }), /^ {2}the lease of the master is over in 4\.0 s: promote --accept-loss waits/m)
  t.notMatch(leased({ peers }), /lease/, 'while a session keeps it alive nobody needs to know')
})

t.test('wait, verify and promote end as the daemon says', async t => {
  const lines = (...events: object[]) => ({ stream: async (line: (value: unknown) => void) => events.forEach(line) })
  let different = 0
  const verified = { done: true, chunks: 16, repaired: 0, unreadableBytes: 0, differences: [], unreadable: [] }
  const state = await answering(t, {
    'POST /wait': () =>
      lines({ done: false, missing: 'it is resyncing', volumes: [] }, { done: true, missing: '', volumes: [] }),
    'POST /verify': () => lines({ done: false }, { ...verified, different }),
    'POST /promote': () => ({ document: { messages: ['master last heard 3 s ago'] } }),
    'GET /status': () => ({
      document: {
        volumes: [
          {
            ...masterStatus,
            ...{ name: 'disk', role: 'standby', lease: { seconds: 10, secondsLeft: 4, inForce: true } },
          },
        ],
      },
    }),
    'POST /export': () => lines(),
  })
  t.same(await understudy('wait', 'disk', '--for', 'drained', '--state', state), {
    code: 0,
    stdout: 'disk is drained\n',
    stderr: '',
  })
  t.same(await understudy('verify', 'disk', '--state', state), {
    code: 0,
    stdout: 'disk: 16 chunks, all equal\n',
    stderr: '',
  })
  different = 2
  t.match(await understudy('verify', 'disk', '--state', state), {
    code: 1,
    stderr: /^understudy: verify: volume 'disk': 2 of 16 chunks differ/,
  })
  t.match(await understudy('promote', 'disk', '--state', state), { code: 0, stdout: 'master last heard 3 s ago\n' })
  t.match(await understudy('promote', 'disk', '--accept-loss', '--state', state), {
    code: 0,
    stderr: 'disk: the lease of the master is over in 4.0 s; waiting (--force does not)\n',
  })
  t.match(await understudy('export', 'disk', '--listen', 'unix:/tmp/x', '--state', state), {
    code: 1,
    stderr: /the daemon ended the export/,
  })
})

t.test('filter --apply asks for what is named, and says how long it lasts', async t => {
  const asked: unknown[] = []
  const answer = {
    leftOutBytes: 4096,
    sizeBytes: 8192,
    enteringBytes: 0,
    leavingBytes: 4096,
    warnings: ['matches nothing'],
  }
  let keys = ['exclude = ["0-4096"]']
  const state = await answering(t, {
    'POST /change-filter': fields => {
      const [clear, dryRun] = [fields.flag('clear'), fields.flag('dryRun')]
      asked.push({ clear, dryRun, exclude: fields.strings('exclude'), fallback: fields.text('fallback') })
      return { document: { ...answer, keys, inForce: !dryRun, file: clear ? '/etc/u.toml' : '' } }
    },
  })
  const filter = (...flags: string[]): ReturnType<typeof understudy> => understudy('filter', 'disk', ...flags, '--state', state) // prettier-ignore
  t.same(await filter('--exclude', '0-4096', '--apply'), {
    code: 0,
    stdout: `disk: this filter is in force: 4 KiB of 8 KiB is left out
  exclude = ["0-4096"]
newly left out: 4 KiB; zeroes on the standby
this lasts until the daemon is started again: start it with these flags from then on
`,
    stderr: 'understudy: warning: matches nothing\n',
  })
  t.match(await filter('--exclude', '0-4096', '--dry-run'), {
    stdout: `disk: this filter would be in force: 4 KiB of 8 KiB would be left out
  exclude = ["0-4096"]
newly left out: 4 KiB; zeroes on the standby
`,
  })
  keys = []
  t.match(await filter('--clear', '--apply'), {
    stdout:
      /^disk: no filter is in force, everything is replicated\n.*\nthis .*, or reloads: write it to \/etc\/u.toml, too\n$/,
  })
  t.same(asked, [
    { clear: false, dryRun: false, exclude: ['0-4096'], fallback: '' },
    { clear: false, dryRun: true, exclude: ['0-4096'], fallback: '' },
    { clear: true, dryRun: false, exclude: [], fallback: '' },
  ])
  for (const flags of [[], ['--apply', '--explain'], ['--apply'], ['--explain', '--exclude', '0-1']])
    t.equal((await refused(['filter', 'disk', ...flags, '--state', state])).code, 2, flags.join(' '))
  t.equal(asked.length, 3)
})

t.test('a daemon that is not there, or not ours, is one line and exit code 1', async t => {
  const state = scratch(t)
  const outcome = await understudy('status', '--state', state)
  t.match(outcome, { code: 1, stderr: /^understudy: no daemon runs on state directory [^\n]*\n$/ })
})
