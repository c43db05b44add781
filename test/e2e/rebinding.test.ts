// timeout: 60
/**
 * The address by which the standby sees its master changes, as behind a NAT that forgets: the session goes on, with the
 * same session number and in the same log, whether clients write or nobody does.
 */
import t from 'tap'
import { again } from '../support/again.js'
import { inSync, metric, sleep, startPair } from '../support/daemon.js'
import { History } from '../support/history.js'
import { UdpRelay } from '../support/udp-relay.js'
import { Workload } from '../support/workload.js'

const seed = Number(process.env['UNDERSTUDY_SEED'] ?? Date.now() % 1_000_000)
const blocks = 1024

t.comment(`UNDERSTUDY_SEED=${seed}`)

t.test('a client address that changes does not end the session', t =>
  again(t, async attempt => {
    let relay: UdpRelay | undefined
    const peerTimeoutMs = 1000 * attempt.number
    const pair = await startPair(attempt, {
      sizeBytes: blocks * 4096,
      master: ['--peer-timeout', `${peerTimeoutMs}ms`],
      relay: async port => (relay = await UdpRelay.open(port, seed)).port,
    })
    attempt.teardown(() => relay?.close())
    const counted = (name: string, labels = {}): Promise<number | undefined> =>
      metric(pair.metrics.master, `understudy_${name}`, labels)
    let address = (await pair.standby.volume(pair.volume)).peers[0]?.address
    const follows = async (when: string): Promise<void> => {
      const { peers } = await pair.standby.until(
        pair.volume,
        `the standby follows the address ${when}`,
        ({ peers }) => {
          return peers[0]?.session === 'connected' && peers[0].address !== address
        },
      )
      address = peers[0]?.address
    }
    const sessions = await counted('link_reconnects_total')

    const history = new History(seed, blocks)
    const workload = new Workload({ history, address: { path: pair.socket }, exportName: pair.volume, seed })
    workload.start()
    attempt.teardown(() => workload.stop())
    for (let round = 0; round < 5; round++) {
      relay?.rebind()
      await workload.written(300)
    }
    await workload.stop()
    t.strictSame(workload.errors, [], 'no client saw an error')
    await follows('while clients write')
    relay?.rebind()
    await sleep(peerTimeoutMs + 500) // nobody writes, so that only keep-alives tell of the new address
    await inSync(pair)
    await follows('while nobody does')

    attempt.expects((await counted('link_reconnects_total')) === sessions, 'it is the same session')
    attempt.expects((await counted('link_session')) === 1, 'which is established')
    for (const reason of ['peer-timeout', 'log-full', 'requested'])
      attempt.expects((await counted('detaches_total', { reason })) === 0, `no detach: ${reason}`)
  }),
)
