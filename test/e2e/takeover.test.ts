// timeout: 240
// serial
/**
 * `run --takeover`: a daemon is replaced under its clients. They keep their sockets, hear of no error, and wait for a
 * moment. Nothing runs beside it: how long that moment is gets measured. What else crosses: takeover-clients.test.ts.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { again } from '../support/again.js'
import { inSync, launch, logged, metric, sameBytes } from '../support/daemon.js'
import { Prober, startSuccession, takeOver } from '../support/takeover.js'

t.jobs = 1
const MiB = 1 << 20
const times = 10
/** What the issue asks of a takeover; and what none may take even on a machine that is busy with other things. */
const stallMs = 500
const stallMaxMs = 4 * stallMs

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
