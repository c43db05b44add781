// timeout: 60
/** What SIGHUP makes of TLS files that were replaced while a daemon runs: for new clients they hold, or the old ones do. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import { becomes, Daemon, execute, freeTcpPort, logged, scratch, sparseFile } from '../support/daemon.js'
import { NbdClient, OPT, REP } from '../support/nbd-client.js'
import { makePki, revokeClient } from '../support/pki.js'

const files = scratch(t)
const pki = await makePki(files.folder, 'pki')
const other = await makePki(files.folder, 'other')
const port = await freeTcpPort()
const config = files.path('understudy.toml')
writeFileSync(
  config,
  `state = "${files.path('state')}"
[nbd]
listen = ["127.0.0.1:${port}"]
tls = "require"
tls_certificates = "${pki}"
tls_verify_peer = true
[[group]]
name = "disk"
[[group.volume]]
export = "disk"
device = "${await sparseFile(files.path('disk.img'), 1 << 20)}"
`,
)
const daemon = await new Daemon(t, 'run', files.path('state'), () => ['run', '--config', config]).start()
t.teardown(() => daemon.stop())

/** Resolves when the reload has said what became of the files. */
async function reload(t: Test, pattern: RegExp): Promise<string> {
  const from = daemon.program.stderr.length
  const said = (): string[] =>
    daemon.program.stderr
      .slice(from)
      .split('\n')
      .filter(line => /TLS files/.test(line))
  daemon.program.signal('SIGHUP')
  await becomes(t, 'it is said', () => said().length > 0)
  t.equal(said().length, 1, 'one line')
  t.match(said()[0], pattern)
  return said()[0] ?? ''
}

const size = () => execute('nbdinfo', ['--size', `nbds://localhost:${port}/disk?tls-certificates=${pki}`])

/** The fingerprint of the certificate that the daemon shows. */
async function shown(): Promise<string> {
  const plain = await NbdClient.connect({ host: '127.0.0.1', port })
  if ((await plain.ask(OPT.STARTTLS)) !== REP.ACK) throw new Error('STARTTLS refused')
  plain.socket.removeAllListeners('data')
  const socket = tls.connect({ socket: plain.socket, rejectUnauthorized: false })
  await new Promise<void>((resolve, reject) => {
    socket.once('secureConnect', resolve)
    socket.once('error', reject)
  })
  const { fingerprint256 } = socket.getPeerCertificate()
  socket.destroy()
  return fingerprint256
}

t.test('a client certificate that ca-crl.pem revokes is refused after SIGHUP, and was let in before', async t => {
  t.equal((await size()).code, 0)
  await revokeClient(pki)
  t.equal((await size()).code, 0, 'a file alone changes nothing')
  await reload(t, /TLS files read again/)
  const output = await size()
  t.not(output.code, 0)
  await logged(t, daemon, /revoked/, 'the log says why')
})

t.test('a replaced server certificate is shown after SIGHUP; a broken file keeps the old one, in one line', async t => {
  const before = await shown()
  for (const kind of ['cert', 'key']) copyFileSync(join(other, `server-${kind}.pem`), join(pki, `server-${kind}.pem`))
  t.equal(await shown(), before, 'a file alone changes nothing')
  await reload(t, /TLS files read again/)
  const replaced = await shown()
  t.not(replaced, before)

  const good = readFileSync(join(pki, 'server-cert.pem'), 'utf8')
  writeFileSync(join(pki, 'server-cert.pem'), good.slice(0, 200))
  await reload(t, /failed: TLS files read again: .*server-cert\.pem.*; the old ones stay in force/)
  t.equal(await shown(), replaced)
  writeFileSync(join(pki, 'server-cert.pem'), good)
  await reload(t, /reload: TLS files read again/)
  t.equal(await shown(), replaced)
})
