// timeout: 90
/**
 * Who a standby hears, changed while it runs: over both transports a revoked master is shut out at once and stays so, and
 * a stranger learns nothing, not even the name of a volume.
 */
import t, { type Test } from 'tap'
import { identityOf, inSync, logged, type Pair, sleep, startPair, succeed } from '../support/daemon.js'

// They mostly wait for a master to come again.
t.jobs = 5

const transports: [string, { master: string[]; standby: string[] }][] = [
  ['quic', { master: [], standby: ['--transport', 'quic'] }],
  ['webtransport', { master: ['--transport', 'webtransport'], standby: [] }],
]

const write = (pair: Pair, byte: number) =>
  succeed('qemu-io', ['-f', 'raw', '-c', `write -P ${byte} 64k 64k`, '-c', 'flush', pair.uri])

async function done(t: Test, pair: Pair, args: string[]): Promise<void> {
  const output = await pair.standby.command(args)
  t.equal(output.code, 0, `${args.join(' ')}: ${output.stderr}`)
}

const session = (pair: Pair, wanted: string, limitMs = 20_000) =>
  pair.master.until(pair.volume, `session ${wanted}`, volume => volume.peers[0]?.session === wanted, limitMs)

for (const [name, flags] of transports) {
  t.test(
    `${name}: revoke ends the sessions at once, also for good; allow lets the master in again`,
    { buffered: true },
    async t => {
      const pair = await startPair(t, { sizeBytes: 1 << 20, ...flags })
      await done(t, pair, ['revoke', pair.masterId])
      // Nothing else would end it: a session whose key is not asked for again goes on for good.
      const refused = await session(pair, 'refused')
      t.match(refused.reason, /does not allow this host's id|not allowed/)
      await write(pair, 7)
      const status = await pair.standby.status()
      t.same(status.allow, [])
      t.same(status.revoked, [pair.masterId])

      await pair.standby.stop()
      await pair.standby.start()
      await sleep(1500)
      t.equal((await pair.master.volume(pair.volume)).peers[0]?.session === 'connected', false, 'it outlives a restart')
      await done(t, pair, ['allow', pair.masterId])
      await inSync(pair)
      t.match((await pair.standby.command(['status'])).stdout, `allows master ${pair.masterId}`)
    },
  )

  t.test(`${name}: a stranger is refused before any volume is named, to it or by it`, { buffered: true }, async t => {
    const pair = await startPair(t, { sizeBytes: 1 << 20, idle: true, volume: 'secret-name', ...flags })
    const other = identityOf(pair.scratch.path('other'))
    const allowed = (await pair.standby.start()) && (await pair.standby.command(['allow', other]))
    t.equal(allowed.code, 0)
    await done(t, pair, ['revoke', pair.masterId])
    await pair.master.start()
    const { reason } = await session(pair, 'refused')
    t.match(reason, /does not allow this host's id/)
    await logged(t, pair.standby, new RegExp(`key is not allowed here: .*${pair.masterId}`))
    // Neither side has heard of the other's volumes: what is refused is the key.
    t.notMatch(pair.standby.program.stderr, /secret-name/)
    t.notOk((await pair.standby.status()).volumes.length, 'no copy was made')
  })
}

t.test(
  'allow and revoke of something that is no id: one line, exit code 2; a master hears nobody',
  { buffered: true },
  async t => {
    const pair = await startPair(t, { sizeBytes: 1 << 20, idle: true })
    await pair.standby.start()
    for (const args of [
      ['allow', 'me'],
      ['revoke', '12'],
    ]) {
      const output = await pair.standby.command(args)
      t.equal(output.code, 2, args.join(' '))
      t.equal(output.stderr.trimEnd().split('\n').length, 1, output.stderr)
    }
    await pair.master.start()
    const output = await pair.master.command(['allow', pair.standbyId])
    t.equal(output.code, 2)
    t.match(output.stderr, /no standby/)
  },
)
