// timeout: 120
/**
 * Takeovers of daemons that do more than serve one disk: both roles at once, volumes that were promoted, clients inside of
 * TLS, requests that wait for a standby.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import tls from 'node:tls'
import t from 'tap'
import { command, Daemon, freeze, sparseFile, startPair } from '../support/daemon.js'
import { CMD, NbdClient, OPT, REP } from '../support/nbd-client.js'
import { makePki } from '../support/pki.js'
import { Prober, startSuccession, successorOf, takeOver } from '../support/takeover.js'

t.jobs = 1
const MiB = 1 << 20

t.test('a daemon of both roles hands over its own volume, its copy, and what it has promoted', async t => {
  const pair = await startPair(t, { idle: true })
  const [own, second] = [pair.scratch.path('own.sock'), pair.scratch.path('second.sock')]
  const config = pair.scratch.path('both.toml')
  await sparseFile(pair.scratch.path('own.img'), 8 * MiB)
  writeFileSync(
    config,
    `state = "${pair.standby.state}"
[nbd]
listen = ["unix:${own}"]
[[group]]
[[group.volume]]
export = "own"
device = "own.img"
[standby]
store = "store"
listen = "${pair.standbyAddress}"
allow = ["${pair.masterId}"]
`,
  )
  const both = new Daemon(t, 'both', pair.standby.state, () => ['run', '--config', config])
  await both.start()
  await pair.master.start()
  const replicating = (): Promise<unknown> =>
    pair.master.until(pair.volume, 'in sync', volume => volume.state === 'replicating' && volume.usable)
  await replicating()
  const owns = await Prober.start(own, 'own', { offset: 0, blocks: 64 })
  const copied = await Prober.start(pair.socket, pair.volume, { offset: 0, blocks: 64 })
  await copied.answered(50)
  t.match(await takeOver(t, both, config), { code: 0 }, 'as a standby and a master')
  await replicating()
  await copied.answered(50)
  await copied.stop()
  t.equal(copied.failure, undefined)
  await pair.master.kill()
  t.match(await both.command(['promote', pair.volume, '--accept-loss', '--listen', `unix:${second}`]), { code: 0 })
  const promoted = await Prober.start(second, pair.volume, { offset: 0, blocks: 64 })
  await promoted.answered(50)
  t.match(await takeOver(t, both, config), { code: 0 }, 'as a master of both')
  await Promise.all([promoted.answered(50), owns.answered(50)])
  await Promise.all([promoted.stop(), owns.stop()])
  t.same([promoted.failure, owns.failure], [undefined, undefined], 'each on one connection')
  t.match((await both.volume(pair.volume)).role, 'master')
  t.match(await both.stop(), { code: 0 })
})

t.test('clients inside of TLS lose their session at the hand-over, and not in one that fails', async t => {
  const pair = await startSuccession(t)
  await pair.master.stop()
  const pki = await makePki(pair.scratch.folder, 'pki')
  const text = readFileSync(pair.config, 'utf8')
  writeFileSync(pair.config, text.replace('[nbd]\n', `[nbd]\ntls = "on"\ntls_certificates = "${pki}"\n`))
  await pair.master.start()
  const plain = await Prober.start(pair.socket, pair.volume, { offset: 0, blocks: 64 })
  const secret = await secured(pair.socket, pki)
  await secret.go(pair.volume)
  t.equal((await secret.read(0, 512)).error, 0)
  const failing = successorOf(t, pair.config, {
    NODE_OPTIONS: `--import ${join(process.cwd(), 'test/support/takeover-hook.mjs')}`,
    TAKEOVER_PHASE: 'open',
  })
  t.match(await failing.gone(), { signal: 'SIGKILL' })
  await plain.answered(20)
  t.equal((await secret.read(0, 512)).error, 0, 'the session goes on when the daemon does')
  t.match(await takeOver(t, pair.master, pair.config), { code: 0 })
  await secret.closed
  await plain.answered(20)
  await plain.stop()
  t.equal(plain.failure, undefined, 'a plain client notices nothing')
  const again = await secured(pair.socket, pki)
  await again.go(pair.volume)
  t.equal((await again.read(0, 512)).error, 0, 'and the next session is as good as the last')
  again.destroy()
})

async function secured(path: string, pki: string): Promise<NbdClient> {
  const plain = await NbdClient.connect({ path })
  if ((await plain.ask(OPT.STARTTLS)) !== REP.ACK) throw new Error('STARTTLS was refused')
  plain.socket.removeAllListeners('data')
  const ca = readFileSync(join(pki, 'ca-cert.pem'))
  const socket = tls.connect({ socket: plain.socket, ca, servername: 'localhost' })
  await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject))
  const client = new NbdClient(socket)
  client.noZeroes = true
  return client
}

t.test('requests that wait for a standby are never cut off: the takeover gives way, and says so', async t => {
  const pair = await startSuccession(t, { toml: 'on_standby_loss = "block"\npeer_timeout = "1s"' })
  const client = await NbdClient.attach({ path: pair.socket }, pair.volume)
  t.equal((await client.write(0, Buffer.alloc(4096, 1))).error, 0)
  await freeze(pair.standby)
  let answered = false
  const flush = client.request({ type: CMD.FLUSH }).then(reply => {
    answered = true
    return reply
  })
  const { code, stderr } = await command(['run', '--config', pair.config, '--takeover'])
  t.equal(code, 1)
  t.match(
    stderr,
    /^understudy: takeover: given up: answering what clients have asked for .* takes longer than 250 ms, half of the 500 ms that clients may wait/m,
  )
  t.equal(answered, false, 'the flush still waits for the standby')
  pair.standby.program.signal('SIGCONT')
  t.equal((await flush).error, 0, 'and is answered by the daemon that took it')
  t.match(await takeOver(t, pair.master, pair.config), { code: 0 })
  t.ok((await client.read(0, 4096)).data.equals(Buffer.alloc(4096, 1)))
  await client.disconnect()
})
