// timeout: 120
/**
 * Keys are rotated while both hosts run and clients write: the new id and the old one are the same host's until the
 * rotation is finished, replication goes on without a resynchronisation, and a revoked old key opens nothing.
 */
import { cpSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import {
  Daemon,
  inSync,
  logged,
  metric,
  type Pair,
  sameBytes,
  sleep,
  sparseFile,
  startPair,
  succeed,
} from '../support/daemon.js'

t.jobs = 2

const transports: [string, { master: string[]; standby: string[] }][] = [
  ['quic', { master: [], standby: ['--transport', 'quic'] }],
  ['webtransport', { master: ['--transport', 'webtransport'], standby: [] }],
]

const write = (pair: Pair, byte: number) =>
  succeed('qemu-io', ['-f', 'raw', '-c', `write -P ${byte} 64k 64k`, '-c', 'flush', pair.uri])

async function done(t: Test, daemon: Daemon, args: string[]): Promise<string> {
  const output = await daemon.command(args)
  t.equal(output.code, 0, `${args.join(' ')}: ${output.stderr}`)
  return output.stdout.trim()
}

/** The next session is a new one. */
async function reconnect(t: Test, pair: Pair): Promise<void> {
  await done(t, pair.master, ['pause', pair.volume])
  await done(t, pair.master, ['resume', pair.volume])
  await inSync(pair)
}

for (const [name, flags] of transports) {
  t.test(
    `${name}: both keys are rotated while a pair runs; nothing is compared or sent again, and the old master key is revoked`,
    { buffered: true },
    async t => {
      // The log is kept however long the machine stands still.
      const pair = await startPair(t, {
        sizeBytes: 1 << 20,
        ...flags,
        master: [...flags.master, '--peer-timeout', '60s'],
      })
      const { master, standby, masterId, standbyId } = pair
      const oldState = pair.scratch.path('old')
      cpSync(join(master.state, 'identity'), join(oldState, 'identity'), { recursive: true })
      await write(pair, 1)
      await inSync(pair)
      const before = master.program.stderr.length

      const newMaster = await done(t, master, ['identity', 'rotate'])
      const newStandby = await done(t, standby, ['identity', 'rotate'])
      t.equal(new Set([masterId, standbyId, newMaster, newStandby]).size, 4)
      t.equal(statSync(join(master.state, 'identity/key.pem')).mode & 0o777, 0o600)
      t.match(await master.status(), { id: newMaster, formerId: masterId })
      t.equal((await master.command(['identity', 'rotate'])).code, 3, 'one rotation at a time')
      await write(pair, 2)
      await inSync(pair)

      // Nobody has been told anything: each knows the other by its former id, and says what to change.
      await reconnect(t, pair)
      await logged(t, standby, new RegExp(`master ${masterId} has a new id: understudy allow ${newMaster}`))
      await logged(
        t,
        master,
        new RegExp(`standby .* has a new id: in --standby .* put ${newStandby} in the place of ${standbyId}`),
      )

      await done(t, standby, ['allow', newMaster])
      await done(t, standby, ['revoke', masterId])
      await standby.until(pair.volume, 'known by its new id', ({ peers }) => {
        return peers[0]?.id === newMaster && peers[0].session === 'connected'
      })
      await write(pair, 3)
      await inSync(pair)

      const thief = new Daemon(t, 'old key', oldState, () => [
        ...['master', '--state', oldState, '--device', pair.scratch.path('other.img'), '--export', 'other'],
        ...['--listen', `unix:${pair.scratch.path('other.sock')}`, '--standby', `${standbyId}@${pair.standbyAddress}`],
        ...flags.master,
      ])
      await sparseFile(pair.scratch.path('other.img'), 1 << 20)
      await thief.start()
      await thief.until('other', 'refused', ({ peers }) => peers[0]?.session === 'refused')
      await thief.stop()

      await done(t, master, ['identity', 'rotate', '--finish'])
      await reconnect(t, pair)
      await write(pair, 4)
      await inSync(pair)
      t.notMatch(master.program.stderr.slice(before), /resync|compared/, 'it went on from the log')
      t.equal((await master.status()).formerId, undefined)

      // A master that still names the old id of the standby is told which one answers.
      await done(t, standby, ['identity', 'rotate', '--finish'])
      await done(t, master, ['pause', pair.volume])
      await done(t, master, ['resume', pair.volume])
      const refused = await master.until(pair.volume, 'refused', ({ peers }) => peers[0]?.session === 'refused')
      t.match(
        refused.reason,
        new RegExp(`answers another key .*${newStandby}.* than the one configured .*check --standby`),
      )
      await sameBytes(t, pair.device, pair.image)
    },
  )
}

const compared = /resynchronisation is complete at sequence \d+: ([\d.]+) (\wi)?B were compared or sent/g

/** What the last resynchronisation went through, and what crossed the link both ways, as the master of the moment counts it. */
async function cost(t: Test, master: Daemon, port: number): Promise<{ mebibytes: number; link: number }> {
  await logged(t, master, /resynchronisation is complete/)
  const [, value = 'NaN', unit = ''] = [...master.program.stderr.matchAll(compared)].at(-1) ?? []
  let link = 0
  for (; link === 0; await sleep(50)) {
    // they are counted a little later
    const counted = ['sent', 'received'].map(way => metric(port, `understudy_link_bytes_${way}_total`))
    link = (await Promise.all(counted)).reduce<number>((total, bytes) => total + (bytes ?? NaN), 0)
  }
  return {
    mebibytes: (Number(value) * ({ '': 1, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30 }[unit] ?? NaN)) / 2 ** 20,
    link,
  }
}

// Once a copy that was the master's own device was known by its host's id, and after a rotation by nobody.
t.test(
  'after a rotation, a failback and a switchover back compare only what either side wrote',
  { buffered: true },
  async t => {
    const pair = await startPair(t, { sizeBytes: 1 << 30 })
    const { master, standby, volume, metrics } = pair
    const socket = pair.scratch.path('second.sock')
    const there = { ...pair, uri: `nbd+unix:///${volume}?socket=${socket}` }
    const follows = (reigning: Daemon): Promise<unknown> =>
      reigning.until(volume, 'the other side follows', ({ role, state, written, applied, dirtyBytes }) => {
        return role === 'master' && state === 'replicating' && written === applied && dirtyBytes === 0
      })
    const isSmall = async (reigning: Daemon, port: number, when: string): Promise<void> => {
      const { mebibytes, link } = await cost(t, reigning, port)
      t.comment(`${when}: ${mebibytes} MiB were compared or sent, ${link} bytes crossed the link`)
      t.ok(mebibytes <= 64, `${when}: ${mebibytes} MiB of 1024 were compared`)
      t.ok(link < 4 << 20, `${when}: ${link} bytes crossed the link`)
    }
    await write(pair, 1)
    await inSync(pair)
    await master.stop() // what the first copy went through is hot for some time yet
    await master.restart()
    await inSync(pair)
    await standby.kill()
    await write(pair, 2)
    await master.kill()
    await done(t, master, ['identity', 'rotate'])
    await standby.restart()
    await done(t, standby, ['promote', volume, '--accept-loss', '--listen', `unix:${socket}`])
    await write(there, 3)
    await master.restart()
    await done(t, master, ['resolve', volume, '--keep', 'peer'])
    await follows(standby)
    await isSmall(standby, metrics.standby, 'failback')

    // In a daemon that has the new key since it runs, too.
    await done(t, standby, ['identity', 'rotate'])
    await write(there, 4)
    await follows(standby)
    await done(t, standby, ['switchover', volume])
    await follows(master)
    await isSmall(master, metrics.master, 'switchover')
    for (const daemon of [master, standby]) t.equal((await daemon.stop()).code, 0)
    await sameBytes(t, pair.device, pair.image)
  },
)
