// timeout: 180
/** The link in a tunnel of TLS over TCP (--transport webtransport): the same promises, and who may use it. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { connect as tcpConnect } from 'node:net'
import t from 'tap'
import { type Pair, inSync, logged, startPair } from '../support/daemon.js'
import { History, blockBytes, checkCut } from '../support/history.js'
import { Observer } from '../support/observer.js'
import { Workload } from '../support/workload.js'

const blocks = 1024
const sizeBytes = blocks * blockBytes
const over = ['--transport', 'webtransport', '--peer-timeout', '1s']
const sha = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

function load(pair: Pair, seed: number): { history: History; workload: Workload } {
  const history = new History(seed, blocks)
  const address = { path: pair.socket }
  const workload = new Workload({ history, address, exportName: pair.volume, seed, reconnect: true })
  workload.start()
  return { history, workload }
}

t.test(
  'the main job over TLS over TCP: legal cuts under load, kills of either side, equal in the end (G2, G4)',
  async t => {
    const pair = await startPair(t, { sizeBytes, master: over })
    const observer = new Observer(pair, sizeBytes)
    const { history, workload } = load(pair, 31)
    t.teardown(() => workload.stop())
    const judged = async (what: string): Promise<void> => {
      t.strictSame(checkCut(history, await observer.exported(), { atomic: true }).violations, [], what)
    }
    await workload.written(500)
    await judged('under load')
    await pair.standby.kill()
    await workload.written(200)
    await pair.standby.restart()
    await judged('after a kill of the standby')
    await workload.written(300)
    await pair.master.kill()
    await pair.master.restart()
    await workload.written(300)
    await judged('after a kill of the master')
    await workload.stop()
    t.strictSame(workload.errors, [], 'no client saw an error')
    const status = await inSync(pair)
    t.equal(status.peers[0]?.transport, 'webtransport (TLS over TCP)', 'status says what it is')
    await pair.master.stop()
    await pair.standby.stop()
    t.equal(sha(pair.image), sha(pair.device), 'both sides are equal')
  },
)

t.test('a key that is not allowed gets no packet through (G6)', async t => {
  const strict = await startPair(t, { sizeBytes, idle: true })
  await strict.standby.start()
  const stranger = await startPair(t, {
    sizeBytes,
    idle: true,
    master: [...over, '--standby', `${strict.standbyId}@${strict.standbyAddress}`],
  })
  await stranger.master.start()
  const refused = await stranger.master.until('disk1', 'refused', volume => volume.peers[0]?.session === 'refused')
  t.match(refused.reason, /does not allow this host's id/, 'the master says why')
  await logged(t, strict.standby, new RegExp(stranger.masterId.slice(0, 16)), 'and so does the standby')
})

t.test('a standby with another key than the one expected is not spoken to (G6)', async t => {
  const pair = await startPair(t, { sizeBytes, idle: true })
  await pair.standby.start()
  const other = await startPair(t, {
    sizeBytes,
    idle: true,
    master: [...over, '--standby', `${pair.masterId}@${pair.standbyAddress}`],
  })
  await other.master.start()
  const refused = await other.master.until('disk1', 'refused', volume => volume.peers[0]?.session === 'refused')
  t.match(refused.reason, /answers another key/)
})

t.test('strangers at the door cost nothing but themselves', async t => {
  const pair = await startPair(t, { sizeBytes, master: over })
  const port = Number(pair.standbyAddress.split(':')[1])
  const sockets = Array.from({ length: 40 }, (_, i) => {
    const socket = tcpConnect(port, '127.0.0.1')
    socket.on('error', () => undefined)
    if (i % 2 === 0) socket.write('GET / HTTP/1.1\r\n\r\n')
    return socket
  })
  t.teardown(() => sockets.forEach(socket => socket.destroy()))
  const { workload } = load(pair, 32)
  await workload.written(500)
  await workload.stop()
  await inSync(pair)
  t.pass('the pair goes on')
})

t.test('--transport quic opens no TCP port', async t => {
  const pair = await startPair(t, { sizeBytes, standby: ['--transport', 'quic'], master: ['--transport', 'quic'] })
  const port = Number(pair.standbyAddress.split(':')[1])
  const outcome = await new Promise(resolve => {
    const socket = tcpConnect(port, '127.0.0.1', () => resolve('connected'))
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code))
  })
  t.equal(outcome, 'ECONNREFUSED')
})
