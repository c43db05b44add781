// timeout: 60
/**
 * The address by which the standby sees its master changes, as behind a NAT that forgets: the session goes on, with the
 * same session number and in the same log, whether clients write or nobody does.
 */
import t from 'tap'
import { inSync, metric, sleep, startPair } from '../support/daemon.js'
import { History } from '../support/history.js'
import { UdpRelay } from '../support/udp-relay.js'
import { Workload } from '../support/workload.js'

const seed = Number(process.env['UNDERSTUDY_SEED'] ?? Date.now() % 1_000_000)
const blocks = 1024

t.comment(`UNDERSTUDY_SEED=${seed}`)

t.test('a client address that changes does not end the session', async t => {
  let relay: UdpRelay | undefined
  const pair = await startPair(t, {
    sizeBytes: blocks * 4096,
    master: ['--peer-timeout', '1s'],
    relay: async port => (relay = await UdpRelay.open(port, seed)).port,
  })
  t.teardown(() => relay?.close())
  const counted = (name: string, labels = {}): Promise<number | undefined> =>
    metric(pair.metrics.master, `understudy_${name}`, labels)
  const seenAt = async (): Promise<string | undefined> => (await pair.standby.volume(pair.volume)).peers[0]?.address
  const addresses = new Set([await seenAt()])
  const sessions = await counted('link_reconnects_total')

  const history = new History(seed, blocks)
  const workload = new Workload({ history, address: { path: pair.socket }, exportName: pair.volume, seed })
  workload.start()
  t.teardown(() => workload.stop())
  for (let round = 0; round < 5; round++) {
    relay?.rebind()
    await workload.written(300)
  }
  await workload.stop()
  t.strictSame(workload.errors, [], 'no client saw an error')
  addresses.add(await seenAt())
  relay?.rebind()
  await sleep(1500) // nobody writes: longer than the peer timeout, so that only keep-alives tell of the new address
  await inSync(pair, 5_000)
  addresses.add(await seenAt())

  t.equal(addresses.size, 3, 'the standby has followed the address')
  t.equal(await counted('link_reconnects_total'), sessions, 'it is the same session')
  t.equal(await counted('link_session'), 1, 'which is established')
  for (const reason of ['peer-timeout', 'log-full', 'requested'])
    t.equal(await counted('detaches_total', { reason }), 0, `no detach: ${reason}`)
})
