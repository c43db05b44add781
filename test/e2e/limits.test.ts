/** What strangers and clients can make a daemon hold (G7), where the limit is one of the whole daemon. */
import { statSync } from 'node:fs'
import t, { type Test } from 'tap'
import { becomes, command, Daemon, freeTcpPort, logged, scratch, sparseFile } from '../support/daemon.js'
import { NbdClient, OPT } from '../support/nbd-client.js'

const files = scratch(t)
const device = await sparseFile(files.path('disk.img'), 1 << 20)
const port = await freeTcpPort()
const path = files.path('nbd.sock')
const flags = ['--device', device, '--export', 'disk', '--listen', `127.0.0.1:${port}`, '--listen', `unix:${path}`]
const daemon = await new Daemon(t, 'daemon', files.path('state'), () => [
  ...['master', '--state', files.path('state'), ...flags, '--max-connections', '4'],
]).start()
t.teardown(() => daemon.stop())
const tcp = { host: '127.0.0.1', port }

/** So many connections at once, as soon as there is room: a client that has left is let go a moment later. */
async function places(
  t: Test,
  count: number,
  open = (): Promise<NbdClient> => NbdClient.attach(tcp, 'disk'),
): Promise<NbdClient[]> {
  let clients: NbdClient[] = []
  await becomes(t, `there is room for ${count}`, async () => {
    const attached = await Promise.allSettled(Array.from({ length: count }, open))
    clients = attached.flatMap(one => (one.status === 'fulfilled' ? [one.value] : []))
    if (clients.length === count) return true
    for (const client of clients) client.destroy()
    return false
  })
  return clients
}

t.test(
  '--max-connections: one more than there may be, over all listeners, is closed and named; a place that comes free is taken',
  async t => {
    const clients = [
      await NbdClient.attach(tcp, 'disk'),
      await NbdClient.attach({ path }, 'disk'),
      await NbdClient.attach(tcp, 'disk'),
      await NbdClient.attach({ path }, 'disk'),
    ]
    const refused = await NbdClient.open(tcp)
    await refused.receiveEnd()
    for (const client of clients) t.equal((await client.read(0, 512)).error, 0, 'the others are served')
    await logged(t, daemon, /connection dropped: 4 connections are open, which is the most there may be/)
    await clients.pop()?.disconnect()
    const next = await places(t, 1)
    t.equal((await next[0]?.read(0, 512))?.error, 0)
    for (const client of [...clients, ...next]) await client.disconnect()
  },
)

t.test('clients that stall in the handshake take no place from those that do not', async t => {
  const stalling = await places(t, 4, () => NbdClient.connect(tcp))
  const honest = await NbdClient.attach({ path }, 'disk')
  t.equal((await honest.read(0, 512)).error, 0)
  t.equal(await Promise.race(stalling.map(client => client.closed.then(() => 'closed'))), 'closed')
  await honest.disconnect()
  for (const client of stalling) client.destroy()
})

t.test('a place is given back by clients that leave in any way', async t => {
  for (let round = 0; round < 30; round++) {
    const [client] = await places(t, 1, () => NbdClient.connect(tcp))
    if (client === undefined) return
    if (round % 3 === 0) client.destroy()
    else if (round % 3 === 1) await client.ask(OPT.ABORT)
    else {
      await client.go('disk')
      client.destroy()
    }
  }
  for (const client of await places(t, 4)) await client.disconnect()
})

t.test('the control socket belongs to the owner of the daemon alone', t => {
  t.equal(statSync(files.path('state/control.sock')).mode & 0o777, 0o600)
  t.equal(statSync(files.path('state')).mode & 0o777, 0o700)
  t.end()
})

t.test('a limit that cannot be meant is refused with one line (exit code 2)', async t => {
  for (const count of ['0', '5000', 'many']) {
    const output = await command(['master', '--state', files.path('other'), ...flags, '--max-connections', count])
    t.equal(output.code, 2)
    t.match(output.stderr, /^understudy: --max-connections: '.*' is not a number of connections; 1 to 4096\n$/)
  }
})
