// timeout: 200
/**
 * Takeovers that do not work out: whatever happens to the successor before it may serve, the daemon goes on with the
 * same client sockets, and no client hears of an error; whatever is different is refused, in one line. And a daemon that
 * dies when it has handed everything over is no loss.
 */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { again } from '../support/again.js'
import {
  becomes,
  command,
  folder,
  inSync,
  logged,
  metricBecomes,
  sameBytes,
  scratch,
  sparseFile,
} from '../support/daemon.js'
import { preloaded } from '../support/preload.js'
import { killedAt, Prober, startSuccession, successorOf, takeOver } from '../support/takeover.js'

t.jobs = 1
const MiB = 1 << 20
t.test('a successor killed at any phase leaves the daemon serving, and its clients without an error', async t => {
  const pair = await startSuccession(t)
  const { pid } = pair.master.program
  const prober = await Prober.start(pair.socket, pair.volume, { offset: 0, blocks: 1024 })
  for (const phase of ['asked', 'begun', 'heir', 'open']) {
    await prober.answered(50)
    const successor = successorOf(t, pair.config, killedAt(phase))
    t.match(await successor.gone(), { code: null, signal: 'SIGKILL' }, `killed: ${phase}`)
    await prober.answered(100)
    t.equal(successor.stdout, '', `${phase}: it has never been ready`)
    await pair.master.until(pair.volume, phase, volume => volume.state === 'replicating')
    t.equal(readFileSync(join(pair.master.state, 'lock'), 'utf8'), `${pid}\n`, `${phase}: the lock names the daemon`)
    t.same(leftOvers(pair.master.state), [], `${phase}: nothing lies about`)
  }
  const says = (pattern: RegExp): number => pair.master.program.stderr.match(pattern)?.length ?? 0
  await becomes(t, 'taken back for begun, heir and open', () => says(/this daemon takes everything back/g) === 3)
  t.equal(says(/everything is compared/g), 1, 'at the first synchronisation and never again')
  t.match(await takeOver(t, pair.master, pair.config), { code: 0 }, 'and a takeover works as before')
  await prober.answered(100)
  await prober.stop()
  t.equal(prober.failure, undefined, 'all on one connection')
  await inSync(pair)
  t.match(await pair.master.stop(), { code: 0 })
  t.match(await pair.standby.stop(), { code: 0 })
  await sameBytes(t, pair.device, pair.image)
})

/** A pid may be gone and its socket's file not: nobody listens there, and the next one has another name. */
const leftOvers = (state: string): string[] =>
  readdirSync(state).filter(name => name.startsWith('takeover-') && !name.endsWith('.sock'))

t.test('a successor that says nothing is ended, and the daemon goes on', t =>
  again(t, async attempt => {
    const pair = await startSuccession(attempt)
    const prober = await Prober.start(pair.socket, pair.volume, { offset: 0, blocks: 64 })
    await prober.answered(50)
    // In less it may give up by itself, before it is stopped.
    const successor = successorOf(attempt, pair.config, killedAt('open', 'stop'), `${2 * 3 ** (attempt.number - 1)}s`)
    const ended = await successor.gone(120_000)
    await prober.answered(50)
    await prober.stop()
    t.equal(prober.failure, undefined)
    attempt.expects(ended.signal === 'SIGKILL', `by the daemon: ${JSON.stringify(ended)}`)
    await logged(t, pair.master, /the successor does not serve: .*ETIMEDOUT/)
    t.ok(pair.master.program.running)
  }),
)

t.test('a device that flushes more slowly than clients may wait: refused, or in the time that is allowed', async t => {
  const files = scratch(t)
  const device = await sparseFile(files.path('slow.img'), 16 * MiB)
  const faults = folder(files, 'faults')
  const slow = { LD_PRELOAD: preloaded(files, 'io-shim'), IO_SHIM_FILE: device, IO_SHIM_FAULTS: faults }
  const pair = await startSuccession(t, { device, masterEnv: slow })
  const before = pair.master.program
  const prober = await Prober.start(pair.socket, pair.volume, { offset: 0, blocks: 64 })
  const socket = prober.client.socket.localAddress
  await prober.answered(50)
  writeFileSync(join(faults, 'slow-flush'), '')
  const wanted =
    /^understudy: takeover: given up: flushing \S*slow\.img \(\d+ ms a moment ago\) takes longer than 250 ms, half of the 500 ms that clients may wait \(5 attempts, [^\n]*--max-stall 2s$/m
  let refusals = 0
  // On a machine that is busy something else may take longer than that before it comes to the flush.
  for (let said = ''; !wanted.test(said) && refusals < 6;) {
    const refused = await command(['run', '--config', pair.config, '--takeover'])
    t.equal(refused.code, 1)
    t.equal(refused.stderr.match(/^understudy: /gm)?.length, 1)
    said = refused.stderr
    if (++refusals === 6 || wanted.test(said)) t.match(said, wanted)
  }
  await prober.answered(50)
  t.ok(before.running, 'the daemon goes on')
  await metricBecomes(t, pair.metrics.master, 'understudy_takeovers_total', refusals, { outcome: 'given-up' })
  const successor = successorOf(t, pair.config, slow)
  await successor.printed(/^understudy: ready/m)
  t.match(await before.gone(), { code: 0 }, 'with more time it works')
  pair.master.program = successor
  const stall = await metricBecomes(t, pair.metrics.master, 'understudy_takeover_stall_seconds', value => value >= 0.3)
  t.ok(stall <= 20, `and says how long clients waited: ${stall} s`)
  await metricBecomes(t, pair.metrics.master, 'understudy_takeovers_total', 1, { outcome: 'taken-over' })
  rmSync(join(faults, 'slow-flush'))
  await prober.answered(50)
  await prober.stop()
  t.equal(prober.failure, undefined)
  t.equal(prober.client.socket.localAddress, socket)
  t.match(await pair.master.stop(), { code: 0 })
})

t.test('a successor that is not ready in time gives everything back, a few times, and says why', t =>
  again(t, async attempt => {
    const pair = await startSuccession(attempt)
    const prober = await Prober.start(pair.socket, pair.volume, { offset: 0, blocks: 64 })
    await prober.answered(50)
    // In less it may give up before it has anything to open.
    const seconds = 2 * 3 ** (attempt.number - 1)
    const successor = successorOf(attempt, pair.config, killedAt('busy', ''), `${seconds}s`)
    const ended = await successor.gone(240_000)
    t.match(ended, { code: 1 })
    await prober.answered(50)
    const why = new RegExp(
      `^understudy: takeover: given up: opening everything took longer than the \\d+ ms left for it \\(closing took \\d+ ms\\); clients waited \\d+ ms and may wait ${seconds}000: .*--max-stall ${4 * seconds}s \\(3 attempts\\)$`,
      'm',
    )
    attempt.expects(why.test(successor.stderr), `why: ${successor.stderr}`)
    t.ok(pair.master.program.running)
    const says = (pattern: RegExp): number => pair.master.program.stderr.match(pattern)?.length ?? 0
    await becomes(t, 'everything was taken back', () => says(/this daemon takes everything back/g) === 3)
    await becomes(t, 'and opened', () => says(/everything is open again, clients go on/g) === 3)
    t.match(await takeOver(attempt, pair.master, pair.config), { code: 0 }, 'and the next one works')
    await prober.answered(50)
    await prober.stop()
    t.equal(prober.failure, undefined, 'all on one connection')
    t.notMatch(pair.master.program.stderr, /everything is compared/)
  }),
)

t.test('a daemon that dies when it has handed over everything is no loss: the successor serves', async t => {
  const pair = await startSuccession(t, { masterEnv: killedAt('yours') })
  const before = pair.master.program
  const prober = await Prober.start(pair.socket, pair.volume, { offset: 0, blocks: 64 })
  await prober.answered(50)
  const successor = successorOf(t, pair.config)
  await successor.printed(/^understudy: ready/m)
  t.match(await before.gone(), { signal: 'SIGKILL' })
  pair.master.program = successor
  await prober.answered(100)
  await prober.stop()
  t.equal(prober.failure, undefined)
  await inSync(pair)
})

t.test('what is not the same is refused with exit code 3 and one line that says what', async t => {
  const pair = await startSuccession(t)
  const other = pair.scratch.path('other.toml')
  const text = readFileSync(pair.config, 'utf8')
  const attempt = async (from: string | RegExp, to: string): Promise<{ code: number | null; stderr: string }> => {
    writeFileSync(other, text.replace(from, to))
    const { code, stderr } = await command(['run', '--config', other, '--takeover'])
    return { code, stderr: stderr.trimEnd() }
  }
  const refused = 'understudy: takeover: refused: the configurations differ: '
  const renamed = `${pair.device}.other`
  writeFileSync(renamed, Buffer.alloc(MiB))
  t.match(await attempt(`device = "${pair.device}"`, `device = "${renamed}"`), {
    code: 3,
    stderr: `${refused}only the running daemon has group 'disk1': export 'disk1' of ${pair.device}; only the new one has group 'disk1': export 'disk1' of ${renamed}. Reload or restart the daemon for that`,
  })
  t.match(await attempt('"127.0.0.1:0"', '"127.0.0.1:1"'), {
    code: 3,
    stderr: `${refused}only the running daemon has [nbd] listen 127.0.0.1:0; only the new one has [nbd] listen 127.0.0.1:1. Reload or restart the daemon for that`,
  })
  t.match(await attempt(/\[metrics\]\nlisten.*\n/, ''), {
    code: 3,
    stderr: /^\S+ takeover: refused: .*only the running daemon has \[metrics\] listen [^\n]*$/,
  })
  const prober = await Prober.start(pair.socket, pair.volume, { offset: 0, blocks: 64 })
  await prober.answered(50)
  await prober.stop()
  t.equal(prober.failure, undefined, 'nobody noticed')
  t.notMatch(pair.master.program.stderr, /asks for everything/)
})

t.test('where no daemon runs a takeover says so, and makes nothing', async t => {
  const files = scratch(t)
  const config = files.path('u.toml')
  writeFileSync(files.path('disk.img'), Buffer.alloc(MiB))
  writeFileSync(
    config,
    `state = "state"\n[nbd]\nlisten = ["unix:nbd.sock"]\n[[group]]\n[[group.volume]]\nexport = "disk1"\ndevice = "disk.img"\n`,
  )
  const { code, stderr } = await command(['run', '--config', config, '--takeover'])
  t.equal(code, 1)
  t.match(stderr, /^understudy: no daemon runs on state directory \S*\/state; start one [^\n]*\n$/)
  t.notOk(existsSync(files.path('state')))
})
