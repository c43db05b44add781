// timeout: 120
/**
 * Keys are rotated while both hosts run and clients write: the new id and the old one are the same host's until the
 * rotation is finished, replication goes on without a resynchronisation, and a revoked old key opens nothing.
 */
import { cpSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Daemon, inSync, type Pair, sameBytes, sleep, sparseFile, startPair, succeed } from '../support/daemon.js'

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

async function logged(t: Test, daemon: Daemon, pattern: RegExp): Promise<void> {
  for (let tries = 0; tries < 1000 && !pattern.test(daemon.program.stderr); tries++) await sleep(20)
  t.match(daemon.program.stderr, pattern)
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
      const pair = await startPair(t, { sizeBytes: 1 << 20, ...flags })
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
