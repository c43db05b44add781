// timeout: 120
/**
 * NBD over TLS with clients that other people wrote (libnbd, QEMU, node's own TLS) against the real daemon: who gets in,
 * who does not, that the bytes are right, and that nothing stays behind.
 */
import { randomBytes } from 'node:crypto'
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import {
  becomes,
  command,
  Daemon,
  execute,
  freeTcpPort,
  launch,
  logged,
  sameBytes,
  scratch,
  sleep,
  sparseFile,
  startPair,
  succeed,
} from '../support/daemon.js'
import { infoPayload, metaPayload, NbdClient, OPT, REP } from '../support/nbd-client.js'
import { makePki, makePsk, mixedPki } from '../support/pki.js'

const MiB = 1 << 20
const files = scratch(t)
const pki = await makePki(files.folder, 'pki')
const strange = await makePki(files.folder, 'strange')
const psk = await makePsk(files.path('keys.psk'), 'alice')
const port = await freeTcpPort()
const openPort = await freeTcpPort()
const image = await sparseFile(files.path('disk.img'), 64 * MiB)
const openImage = await sparseFile(files.path('open.img'), 8 * MiB)

const master = (name: string, device: string, at: number, ...more: string[]) =>
  new Daemon(t, name, files.path(name), () => [
    ...['master', '--state', files.path(name), '--device', device, '--export', 'disk', '--listen', `127.0.0.1:${at}`],
    ...['--tls-certificates', pki, ...more],
  ]).start()
const daemon = await master('forced', image, port, '--tls', 'require', '--tls-verify-peer', '--tls-psk', psk)
const open = await master('selective', openImage, openPort, '--tls', 'on')
t.teardown(() => Promise.all([daemon.stop(), open.stop()]))

const x509 = (certificates = pki, at = port) => `nbds://localhost:${at}/disk?tls-certificates=${certificates}`
const shared = (file = psk, user = 'alice') => `nbds://${user}@127.0.0.1:${port}/disk?tls-psk-file=${file}`
const address = { host: '127.0.0.1', port }

/** How many threads and descriptors the daemon has. */
const holdings = (of: Daemon) => ({
  threads: readdirSync(`/proc/${of.program.pid}/task`).length,
  descriptors: readdirSync(`/proc/${of.program.pid}/fd`).length,
})

async function backTo(t: Test, before: ReturnType<typeof holdings>, of = daemon): Promise<void> {
  let now = holdings(of)
  await becomes(t, 'all are gone', () => {
    now = holdings(of)
    return now.threads <= before.threads && now.descriptors <= before.descriptors
  })
  t.ok(now.threads <= before.threads, `threads: ${now.threads}, before ${before.threads}`)
  t.ok(now.descriptors <= before.descriptors, `descriptors: ${now.descriptors}, before ${before.descriptors}`)
}

/** A client that has said STARTTLS and been allowed to. */
async function secured(at: number, options: tls.ConnectionOptions = {}): Promise<NbdClient> {
  const plain = await NbdClient.connect({ host: '127.0.0.1', port: at })
  const answer = await plain.ask(OPT.STARTTLS)
  if (answer !== REP.ACK) throw new Error(`STARTTLS: 0x${answer.toString(16)}`)
  return inside(plain, options)
}

async function inside(plain: NbdClient, options: tls.ConnectionOptions = {}): Promise<NbdClient> {
  plain.socket.removeAllListeners('data')
  const socket = tls.connect({ socket: plain.socket, ca: readFileSync(join(pki, 'ca-cert.pem')), ...options })
  await new Promise<void>((resolve, reject) => {
    socket.once('secureConnect', resolve)
    socket.once('error', reject)
  })
  const client = new NbdClient(socket)
  client.noZeroes = true
  return client
}

const ownCertificate = () => ({
  cert: readFileSync(join(pki, 'client-cert.pem')),
  key: readFileSync(join(pki, 'client-key.pem')),
})

// Ten seconds long: it runs beside the others and is looked at in the end.
const stalled = Promise.all([Buffer.alloc(0), clientHelloStart()].map(stall))

async function stall(words: Buffer): Promise<number> {
  const begin = performance.now()
  const client = await NbdClient.connect(address)
  if ((await client.ask(OPT.STARTTLS)) !== REP.ACK) throw new Error('STARTTLS refused')
  client.send(words)
  // An alert may come before the end.
  await client.closed
  return performance.now() - begin
}

/** A TLS record of 200 bytes that stops after 24. */
function clientHelloStart(): Buffer {
  return Buffer.concat([Buffer.from([0x16, 3, 1, 0, 200, 1, 0, 0, 196]), randomBytes(20)])
}

t.test('X.509: what libnbd writes over TLS is on the device, and what it reads is what is there', async t => {
  const source = files.path('source.img')
  writeFileSync(source, randomBytes(64 * MiB))
  await succeed('nbdcopy', ['--flush', '--connections=4', source, x509()])
  await sameBytes(t, source, image, 'written over TLS')
  const copy = files.path('copy.img')
  await succeed('nbdcopy', ['--connections=4', x509(), copy])
  await sameBytes(t, source, copy, 'read over TLS')
  await logged(t, daemon, /TLS1\.3, client certificate CN=client/)
})

t.test('X.509: qemu-io writes and reads with tls-creds-x509', async t => {
  const output = await succeed('qemu-io', [
    ...['--object', `tls-creds-x509,id=tls0,dir=${pki},endpoint=client`],
    ...['--image-opts', `driver=nbd,host=localhost,port=${port},export=disk,tls-creds=tls0`],
    ...['-c', 'write -P 0x5a 1M 3M', '-c', 'flush', '-c', 'read -P 0x5a 1M 3M'],
  ])
  t.match(output, /read 3145728\/3145728/)
  t.ok(
    readFileSync(image)
      .subarray(MiB, 4 * MiB)
      .every(byte => byte === 0x5a),
  )
})

t.test('PSK: libnbd and qemu-img with the right key; a wrong key and an unknown user are refused alike', async t => {
  t.equal((await succeed('nbdinfo', ['--size', shared()])).trim(), String(64 * MiB))
  const folder = files.path('qemu-psk')
  mkdirSync(folder)
  copyFileSync(psk, join(folder, 'keys.psk'))
  const info = await succeed('qemu-img', [
    ...['info', '--object', `tls-creds-psk,id=tls0,dir=${folder},endpoint=client,username=alice`],
    ...['--image-opts', `driver=nbd,host=127.0.0.1,port=${port},export=disk,tls-creds=tls0`],
  ])
  t.match(info, /virtual size: 64 MiB/)
  const wrong = await makePsk(files.path('wrong.psk'), 'alice')
  const unknown = await makePsk(files.path('unknown.psk'), 'mallory')
  for (const uri of [shared(wrong), shared(unknown, 'mallory')])
    t.not((await execute('nbdinfo', ['--size', uri])).code, 0, uri)
  await logged(t, daemon, /pre-shared key of alice/)
  t.notMatch(daemon.program.stderr, /pre-shared key of mallory/)
})

/** Sixteen writes of 1 byte to 1 MiB in flight, then everything is read back, in reads that do not fall on records. */
const randomLoad = `
import nbd, random
h = nbd.NBD()
h.set_tls(nbd.TLS_REQUIRE)
h.set_tls_certificates("PKI")
h.set_export_name("disk")
h.connect_tcp("localhost", "PORT")
assert h.get_tls_negotiated()
random.seed(7)
model = bytearray(h.pread(16 << 20, 0))
flying = []
def settle(most):
    while len(flying) > most:
        flying[:] = [c for c in flying if not h.aio_command_completed(c)]
        if len(flying) > most: h.poll(-1)
for _ in range(25):
    settle(0)
    for slot in range(16):
        length = random.choice([1, 511, 4096, 16384, 16385, 65536, 1 << 20])
        at = (slot << 20) + random.randrange(0, (1 << 20) - length + 1)
        data = random.randbytes(length)
        model[at:at + length] = data
        flying.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at))
settle(0)
h.flush()
at = 0
while at < len(model):
    length = min(random.randrange(1, 1 << 20), len(model) - at)
    assert h.pread(length, at) == model[at:at + length], at
    at += length
h.shutdown()
print("equal")
`

t.test('libnbd from Python: a random load of all sizes is read back as it was written', async t => {
  const program = randomLoad.replace('PKI', pki).replace('PORT', String(port))
  t.match(await succeed('/usr/bin/python3', ['-c', program]), /equal/)
})

t.test('--tls-verify-peer: another authority, no certificate, and a certificate for servers do not get in', async t => {
  const other = mixedPki(files.folder, 'other', pki, strange)
  const server = mixedPki(files.folder, 'purpose', pki, pki, 'server')
  for (const [what, certificates] of Object.entries({ other, server })) {
    const refused = await execute('nbdinfo', ['--size', x509(certificates)])
    t.not(refused.code, 0, what)
    t.notMatch(refused.stdout, /67108864/)
  }
  const nobody = await secured(port)
  nobody.sendOption(OPT.LIST)
  await t.rejects(nobody.receiveReply(OPT.LIST), 'no certificate: nothing is said')
  await logged(t, daemon, /connection dropped: TLS handshake: .*certificate/i)
  const welcome = await secured(port, ownCertificate())
  t.same(
    (await welcome.list()).map(one => one.name),
    ['disk'],
  )
  welcome.destroy()
})

t.test('a client that expects another authority turns away from us', async t => {
  const refused = await execute('nbdinfo', ['--size', x509(mixedPki(files.folder, 'distrust', strange, pki))])
  t.not(refused.code, 0)
  t.match(refused.stderr, /certificate/i)
})

t.test(
  'forced mode: before TLS every option is answered TLS_REQD, EXPORT_NAME ends it, ABORT is acknowledged',
  async t => {
    const client = await NbdClient.connect(address)
    for (const option of [OPT.LIST, OPT.PEEK_EXPORT, OPT.STRUCTURED_REPLY, OPT.EXTENDED_HEADERS, 77])
      t.equal(await client.ask(option), REP.ERR_TLS_REQD, `option ${option}`)
    for (const option of [OPT.INFO, OPT.GO])
      for (const name of ['disk', 'nosuch'])
        t.equal(await client.ask(option, infoPayload(name)), REP.ERR_TLS_REQD, `option ${option} of ${name}`)
    for (const option of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT])
      t.equal(await client.ask(option, metaPayload('disk', ['base:allocation'])), REP.ERR_TLS_REQD, `option ${option}`)
    t.equal(await client.ask(OPT.ABORT), REP.ACK)
    await client.receiveEnd()
    const old = await NbdClient.connect(address)
    old.sendOption(OPT.EXPORT_NAME, Buffer.from('disk'))
    await old.receiveEnd()
  },
)

t.test('selective mode: plain clients are served; what was agreed before TLS is forgotten inside of it', async t => {
  const plain = await NbdClient.attach({ host: '127.0.0.1', port: openPort }, 'disk')
  t.equal((await plain.write(0, Buffer.alloc(4096, 9))).error, 0)
  await plain.disconnect()

  const client = await NbdClient.connect({ host: '127.0.0.1', port: openPort })
  await client.structuredReply()
  t.equal(await client.ask(OPT.STARTTLS, Buffer.from('x')), REP.ERR_INVALID, 'it carries no data')
  t.equal(await client.ask(OPT.STARTTLS), REP.ACK)
  const hidden = await inside(client)
  t.equal(await hidden.ask(OPT.STARTTLS), REP.ERR_INVALID, 'not twice')
  const meta = metaPayload('disk', ['base:allocation'])
  t.equal(await hidden.ask(OPT.SET_META_CONTEXT, meta), REP.ERR_INVALID, 'structured replies were forgotten')
  await hidden.go('disk')
  const read = await hidden.read(0, 4096)
  t.ok(read.data.equals(Buffer.alloc(4096, 9)))
  await hidden.disconnect()
})

t.test('the old EXPORT_NAME works inside of TLS, with the flags from before it', async t => {
  const client = await secured(openPort)
  const info = await client.exportName('disk')
  t.equal(info.size, BigInt(8 * MiB))
  t.equal((await client.read(0, 512)).error, 0)
  await client.disconnect()
})

t.test('plain data behind STARTTLS is not taken for what the client says inside of TLS', async t => {
  const injected = await NbdClient.connect({ host: '127.0.0.1', port: openPort })
  // In one segment: STARTTLS, and an option of somebody on the way.
  injected.socket.cork()
  injected.sendOption(OPT.STARTTLS)
  injected.sendOption(OPT.GO, infoPayload('disk'))
  injected.socket.uncork()
  await injected.receiveEnd()
  await logged(t, open, /plain data after NBD_OPT_STARTTLS/)

  const late = await NbdClient.connect({ host: '127.0.0.1', port: openPort })
  t.equal(await late.ask(OPT.STARTTLS), REP.ACK)
  late.sendOption(OPT.GO, infoPayload('disk'))
  await late.closed
  await logged(t, open, /connection dropped: TLS handshake: /)
})

t.test(
  '50 connections that come and go, and clients that are killed, leave no thread and no descriptor behind',
  async t => {
    await succeed('nbdinfo', ['--size', x509()])
    await sleep(200)
    const before = holdings(daemon)
    for (let round = 0; round < 5; round++) {
      const clients = await Promise.all(Array.from({ length: 10 }, () => secured(port, ownCertificate())))
      await Promise.all(clients.map(client => client.go('disk')))
      for (const [index, client] of clients.entries()) {
        t.equal((await client.read(0, 65536)).error, 0)
        // A good end, a TCP end without a word, an end in the middle of a request.
        if (index % 3 === 0) await client.disconnect()
        else if (index % 3 === 1) client.destroy()
        else {
          client.send(Buffer.alloc(13))
          client.socket.end()
          await client.closed
        }
      }
    }
    const copy = launch(t, 'nbdcopy', 'nbdcopy', ['--connections=4', files.path('source.img'), x509()])
    await sleep(100)
    await copy.kill()
    await backTo(t, before)
  },
)

t.test('a client that does not read makes the daemon hold little, and harms no other', async t => {
  const client = await secured(port, ownCertificate())
  await client.go('disk')
  client.socket.pause()
  const rss = () =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${daemon.program.pid}/status`, 'utf8'))?.[1]) * 1024
  const before = rss()
  for (let index = 0; index < 64; index++) client.request({ type: 0, offset: 0, length: MiB }).catch(() => undefined)
  await sleep(500)
  t.ok(
    rss() - before < 32 * MiB * (process.env['UNDERSTUDY_SANITIZED'] === undefined ? 1 : 10),
    `${(rss() - before) / MiB} MiB more`,
  )
  t.equal((await succeed('nbdinfo', ['--size', shared()])).trim(), String(64 * MiB))
  client.destroy()
})

t.test('key files that others may read, and settings that cannot be meant: one line, exit code 2', async t => {
  const device = await sparseFile(files.path('spare.img'), MiB)
  const base = ['master', '--state', files.path('refused'), '--device', device, '--export', 'd', '--listen', 'unix:/x']
  const exposed = files.path('exposed')
  mkdirSync(exposed)
  for (const name of ['server-cert.pem', 'server-key.pem', 'ca-cert.pem'])
    copyFileSync(join(pki, name), join(exposed, name))
  chmodSync(join(exposed, 'server-key.pem'), 0o640)
  const exposedPsk = files.path('exposed.psk')
  copyFileSync(psk, exposedPsk)
  chmodSync(exposedPsk, 0o604)
  const short = files.path('short.psk')
  writeFileSync(short, 'alice:0102\n', { mode: 0o600 })
  const empty = files.path('empty')
  mkdirSync(empty)
  const broken = files.path('broken')
  mkdirSync(broken)
  for (const name of ['server-cert.pem', 'server-key.pem']) writeFileSync(join(broken, name), 'no PEM', { mode: 0o600 })
  const cases: [string[], RegExp][] = [
    [['--tls', 'on', '--tls-certificates', exposed], /TLS key .*server-key\.pem: other users may read it.*chmod 600/],
    [['--tls', 'on', '--tls-psk', exposedPsk], /TLS pre-shared keys .*other users may read it \(mode 0604\)/],
    [['--tls', 'on', '--tls-psk', short], /short\.psk:1: the key is shorter than 16 bytes/],
    [['--tls', 'on', '--tls-certificates', empty], /server-cert\.pem: cannot read it: it does not exist/],
    [['--tls', 'on', '--tls-certificates', broken], /server-cert\.pem with server-key\.pem: /],
    [['--tls', 'require'], /--tls: 'require' needs certificates/],
    [['--tls', 'maybe'], /--tls: 'maybe' is not one of off, on, require/],
    [['--tls-psk', psk], /--tls: TLS is off/],
    [['--tls', 'on', '--tls-psk', psk, '--tls-verify-peer'], /--tls: 'verify peer'/],
    [['--tls', 'on', '--tls-psk', psk, '--listen', '0.0.0.0:1'], /unencrypted NBD to other hosts.*--tls require/],
  ]
  const outputs = await Promise.all(cases.map(([flags]) => command([...base, ...flags])))
  for (const [index, { code, stderr }] of outputs.entries()) {
    const [flags, expected] = cases[index]!
    t.equal(code, 2, flags.join(' '))
    t.match(stderr, expected)
    t.equal(stderr.trimEnd().split('\n').length, 1, stderr)
  }
})

t.test("a standby's export over TLS, by its own flags; addresses of other hosts need it to be required", async t => {
  const pair = await startPair(t, { sizeBytes: MiB })
  const flags = ['--tls-certificates', pki, '--detach']
  const refused = await pair.standby.command(['export', 'disk1', '--listen', '0.0.0.0:0', '--tls', 'on', ...flags])
  t.equal(refused.code, 2)
  const output = await pair.standby.command(['export', 'disk1', '--listen', '0.0.0.0:0', '--tls', 'require', ...flags])
  t.equal(output.code, 0, output.stderr)
  const at = Number(/^nbds:\/\/0\.0\.0\.0:(\d+)\/disk1$/m.exec(output.stdout)?.[1])
  const uri = `nbds://localhost:${at}/disk1?tls-certificates=${pki}`
  t.equal((await succeed('nbdinfo', ['--size', uri])).trim(), String(MiB))
  const plain = await NbdClient.connect({ host: '127.0.0.1', port: at })
  t.equal(await plain.ask(OPT.LIST), REP.ERR_TLS_REQD)
  plain.destroy()
})

t.test('a TLS handshake that stalls ends after 10 s, silent or in the middle', async t => {
  for (const milliseconds of await stalled) {
    t.ok(milliseconds > 8000 && milliseconds < 60_000, `${Math.round(milliseconds)} ms`)
  }
  await logged(t, daemon, /TLS handshake: .*timed out/i)
})
