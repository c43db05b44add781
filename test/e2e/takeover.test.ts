// timeout: 240
// serial
/**
 * `run --takeover`: a daemon is replaced under its clients. They keep their sockets, hear of no error, and wait for a
 * moment; the standby is where it was left, and nothing is compared in full.
 */
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import t from 'tap'
import { again } from '../support/again.js'
import {
  becomes,
  Daemon,
  freeUdpPort,
  identityOf,
  inSync,
  launch,
  logged,
  metric,
  sameBytes,
  scratch,
  sparseFile,
} from '../support/daemon.js'
import { CMD, ERR, NbdClient } from '../support/nbd-client.js'
import { Prober, startSuccession, takeOver } from '../support/takeover.js'

t.jobs = 1
const MiB = 1 << 20
const times = 10
/** What the issue asks of a takeover; and what none may take even on a machine that is busy with other things. */
const stallMs = 500
const stallMaxMs = 4 * stallMs

/** On a connection of its own: one that is kept may be closed under the next request, as by every server that ends. */
async function scrapeOnce(port: number): Promise<string> {
  const [response] = (await once(get({ host: '127.0.0.1', port, path: '/metrics', agent: false }), 'response')) as [
    IncomingMessage,
  ]
  return Buffer.concat(await response.toArray()).toString()
}

interface FioJob {
  error: number
  read: { total_ios: number; lat_ns: { max: number } }
  write: { total_ios: number; lat_ns: { max: number } }
}

t.test('ten takeovers under fio, which verifies: no error, the same sockets, stalls of at most 500 ms', t =>
  again(t, async attempt => {
    const pair = await startSuccession(attempt)
    const output = pair.scratch.path('fio.json')
    const fio = launch(attempt, 'fio', 'fio', [
      ...[
        '--name=load',
        '--ioengine=nbd',
        `--uri=${pair.uri}`,
        '--rw=randwrite',
        '--bs=4k',
        '--iodepth=8',
        '--size=48M',
      ],
      ...[
        '--verify=crc32c',
        '--verify_fatal=1',
        '--verify_backlog=256',
        '--verify_state_save=0',
        '--rate_iops=2000',
        '--fsync=64',
      ],
      ...['--time_based', '--runtime=3000', '--output-format=json', `--output=${output}`],
    ])
    const prober = await Prober.start(pair.socket, pair.volume, { offset: 60 * MiB, blocks: 256 })
    const socket = prober.client.socket.localAddress
    await prober.answered(200)
    const pids = [pair.master.program.pid]
    const stalls: number[] = []
    for (let turn = 0; turn < times; turn++) {
      prober.takeSlowestMs()
      t.match(await takeOver(attempt, pair.master, pair.config), { code: 0, signal: null })
      await prober.answered(100)
      stalls.push(prober.takeSlowestMs())
      pids.push((await pair.master.command(['status', '--json'])).code === 0 ? pair.master.program.pid : 0)
      // As a session to the standby began anew: where it was left, whatever was written meanwhile.
      await pair.master.until(pair.volume, 'replicating', volume => volume.state === 'replicating')
      await logged(t, pair.master, /session with the standby at \S+: the standby stands where it was left$/m)
      t.notMatch(pair.master.program.stderr, /everything is compared/)
    }
    t.ok(fio.running, 'fio has not ended by itself')
    fio.signal('SIGINT')
    await fio.gone()
    await prober.stop()
    t.equal(prober.failure, undefined, 'every reply was right, on one connection')
    t.equal(prober.client.socket.localAddress, socket)
    t.equal(new Set(pids).size, times + 1, 'eleven processes')
    const text = readFileSync(output, 'utf8')
    const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: FioJob[] }
    const [job] = jobs
    t.match(job, { error: 0 }, 'fio saw no error')
    attempt.expects((job?.read.total_ios ?? 0) > 1000, `fio has verified ${job?.read.total_ios} blocks`)
    const slowest = Math.max(job?.read.lat_ns.max ?? 0, job?.write.lat_ns.max ?? 0) / 1e6
    const sorted = [...stalls].sort((a, b) => a - b)
    const median = ((sorted[times / 2 - 1] ?? 0) + (sorted[times / 2] ?? 0)) / 2
    t.comment(
      `longest waits in ms: ${stalls.map(Math.round).join(' ')}; median ${Math.round(median)}; fio's ${Math.round(slowest)}`,
    )
    attempt.expects(median <= stallMs, `in the middle a client waited ${Math.round(median)} ms at most`)
    attempt.expects(Math.max(slowest, ...stalls) <= stallMaxMs, 'and never several times that')
    await inSync(pair)
    t.ok(((await metric(pair.metrics.master, 'understudy_resync_sent_bytes')) ?? Infinity) <= 48 * MiB)
    t.match(await pair.master.stop(), { code: 0 })
    t.match(await pair.standby.stop(), { code: 0 })
    await sameBytes(t, pair.device, pair.image)
  }),
)

t.test('what is half sent, half read or not yet asked for crosses the takeover, in every dialect', async t => {
  const pair = await startSuccession(t)
  for (const style of ['simple', 'structured', 'extended'] as const) {
    const contexts = ['understudy:dirty', 'base:allocation', 'understudy:replicated']
    const how = style === 'simple' ? { style } : { style, contexts }
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume, how)
    const refused = await NbdClient.attach({ path: pair.socket }, pair.volume, { style })
    const lazy = await NbdClient.attach({ path: pair.socket }, pair.volume, { style })
    const written = Buffer.alloc(MiB, style.length)
    t.equal((await lazy.write(0, written)).error, ERR.NONE)
    // A write of which half has come.
    const half = client.prepare({ type: CMD.WRITE, offset: MiB, data: Buffer.alloc(64 << 10, 0x5a) })
    client.send(half.data.subarray(0, 20_000))
    // A write that is too large is refused, and skipped as it comes.
    const large = Buffer.alloc(33 * MiB)
    const skipped = refused.prepare({ type: CMD.WRITE, offset: 0, data: large })
    refused.send(skipped.data.subarray(0, 40_000))
    // Replies of 24 MiB that nobody reads.
    lazy.socket.pause()
    const reads = Array.from({ length: 24 }, () => lazy.read(0, MiB))
    await pair.master.until(pair.volume, 'all is in place', () => lazy.socket.bytesWritten > 0)
    t.match(await takeOver(t, pair.master, pair.config), { code: 0 })
    client.send(half.data.subarray(20_000))
    t.equal((await half.reply).error, ERR.NONE, `${style}: the rest of a write`)
    t.ok((await client.read(MiB, 64 << 10)).data.equals(Buffer.alloc(64 << 10, 0x5a)))
    if (style !== 'simple') {
      const { extents } = await client.request({ type: CMD.BLOCK_STATUS, offset: 0, length: MiB })
      t.equal(extents.size, contexts.length, `${style}: the contexts that were selected`)
    }
    refused.send(skipped.data.subarray(40_000))
    t.equal((await skipped.reply).error, ERR.EINVAL, `${style}: the rest of a write that is skipped`)
    t.ok((await refused.read(0, MiB)).data.equals(written))
    lazy.socket.resume()
    const replies = await Promise.all(reads)
    t.ok(
      replies.every(reply => reply.error === 0 && reply.data.equals(written)),
      `${style}: replies that were not read`,
    )
    await Promise.all([client.disconnect(), refused.disconnect(), lazy.disconnect()])
  }
})

t.test(
  'sockets keep their files, ports and modes; who connects meanwhile is served; a stop leaves nothing',
  async t => {
    const pair = await startSuccession(t)
    const port = /export disk1 at nbd:\/\/127\.0\.0\.1:(\d+)/.exec(pair.master.program.stdout)?.[1]
    const knocking = new AbortController()
    let [served, whole, half] = [0, 0, 0]
    const knock = (async () => {
      while (!knocking.signal.aborted) {
        const client = await NbdClient.attach(
          served % 2 === 0 ? { path: pair.socket } : { host: '127.0.0.1', port: Number(port) },
          pair.volume,
        )
        t.equal((await client.read(0, 512)).error, 0)
        await client.disconnect()
        served++
      }
    })()
    const scrape = (async () => {
      while (!knocking.signal.aborted) {
        try {
          const [text, { volumes }] = [await scrapeOnce(pair.metrics.master), await pair.master.status()]
          whole += /^understudy_build_info/m.test(text) && volumes.length === 1 ? 1 : 0
          half += volumes.length === 1 ? 0 : 1
        } catch (error) {
          // One that was under way may be cut off at the hand-over, but nobody is refused.
          const code = (error as { code?: unknown }).code
          t.ok(['ECONNRESET', 'DAEMON_LEFT'].includes(String(code)), `cut off: ${String(code)}`)
        }
      }
    })()
    for (let turn = 0; turn < 2; turn++) {
      t.match(await takeOver(t, pair.master, pair.config), { code: 0 })
      t.ok(pair.master.program.stdout.includes(`nbd://127.0.0.1:${port}`), 'the port the kernel chose at first')
    }
    await becomes(t, 'clients came and went, and looks', () => served > 5 && whole > 5)
    knocking.abort()
    await Promise.all([knock, scrape])
    t.ok(served > 5, `${served} clients came and went`)
    t.ok(whole > 5, `${whole} scrapes and statuses`)
    t.equal(half, 0, 'a status is never of half a daemon')
    for (const path of [pair.socket, `${pair.master.state}/control.sock`])
      t.equal(statSync(path).mode & 0o777, 0o600, path)
    t.equal(readFileSync(`${pair.master.state}/lock`, 'utf8'), `${pair.master.program.pid}\n`)
    t.match(await pair.master.stop(), { code: 0 })
    for (const path of [pair.socket, `${pair.master.state}/control.sock`])
      t.throws(() => statSync(path), { code: 'ENOENT' }, path)
    await t.rejects(
      new Promise((resolve, reject) => connect(Number(port), '127.0.0.1').on('error', reject).on('connect', resolve)),
    )
  },
)

t.test('a standby is taken over while its master writes: it follows on, and nothing is compared', async t => {
  const files = scratch(t)
  const [masterId, standbyId] = await Promise.all([identityOf(files.path('m')), identityOf(files.path('s'))])
  const port = await freeUdpPort()
  const device = await sparseFile(files.path('disk.img'), 16 * MiB)
  const config = files.path('standby.toml')
  writeFileSync(
    config,
    `state = "${files.path('s')}"\n[standby]\nstore = "${files.path('store')}"\nlisten = "127.0.0.1:${port}"\nallow = ["${masterId}"]\n`,
  )
  const standby = await new Daemon(t, 'standby', files.path('s'), () => ['run', '--config', config]).start()
  const socket = files.path('nbd.sock')
  const master = await new Daemon(t, 'master', files.path('m'), () => [
    ...['master', '--state', files.path('m'), '--device', device, '--export', 'disk1', '--listen', `unix:${socket}`],
    ...['--standby', `${standbyId}@127.0.0.1:${port}`],
  ]).start()
  await master.until('disk1', 'replicating', volume => volume.state === 'replicating')
  const prober = await Prober.start(socket, 'disk1', { offset: 0, blocks: 1024 })
  for (let turn = 0; turn < 3; turn++) {
    await prober.answered(100)
    t.match(await takeOver(t, standby, config), { code: 0 })
    await master.until('disk1', 'replicating', volume => volume.state === 'replicating')
  }
  await prober.stop()
  t.equal(prober.failure, undefined)
  t.equal(master.program.stderr.match(/everything is compared/g)?.length, 1, 'but for the first synchronisation')
  t.match(await master.stop(), { code: 0 })
  t.match(await standby.stop(), { code: 0 })
  await sameBytes(t, device, `${files.path('store')}/disk1/image.raw`)
})
