// timeout: 120
/**
 * What crosses a takeover, whatever it takes: requests and replies in every dialect, sockets, a standby's session. The
 * standby is where it was left, and nothing is compared in full.
 */
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import t from 'tap'
import { becomes, Daemon, freeUdpPort, identityOf, sameBytes, scratch, sparseFile } from '../support/daemon.js'
import { CMD, ERR, NbdClient } from '../support/nbd-client.js'
import { Prober, startSuccession, takeOver } from '../support/takeover.js'

t.jobs = 1
const MiB = 1 << 20

/** On a connection of its own: one that is kept may be closed under the next request, as by every server that ends. */
async function scrapeOnce(port: number): Promise<string> {
  const [response] = (await once(get({ host: '127.0.0.1', port, path: '/metrics', agent: false }), 'response')) as [
    IncomingMessage,
  ]
  return Buffer.concat(await response.toArray()).toString()
}

t.test('what is half sent, half read or not yet asked for crosses the takeover, in every dialect', async t => {
  const pair = await startSuccession(t)
  for (const style of ['simple', 'structured', 'extended'] as const) {
    const contexts = ['understudy:dirty', 'base:allocation', 'understudy:replicated']
    const how = style === 'simple' ? { style } : { style, contexts }
    const client = await NbdClient.attach({ path: pair.socket }, pair.volume, how)
    const refused = await NbdClient.attach({ path: pair.socket }, pair.volume, { style })
    const lazy = await NbdClient.attach({ path: pair.socket }, pair.volume, { style })
    const written = Buffer.alloc(MiB, style.length)
    t.equal((await lazy.write(0, written)).error, ERR.NONE)
    // A write of which half has come.
    const half = client.prepare({ type: CMD.WRITE, offset: MiB, data: Buffer.alloc(64 << 10, 0x5a) })
    client.send(half.data.subarray(0, 20_000))
    // A write that is too large is refused, and skipped as it comes.
    const large = Buffer.alloc(33 * MiB)
    const skipped = refused.prepare({ type: CMD.WRITE, offset: 0, data: large })
    refused.send(skipped.data.subarray(0, 40_000))
    // Replies of 24 MiB that nobody reads.
    lazy.socket.pause()
    const reads = Array.from({ length: 24 }, () => lazy.read(0, MiB))
    await pair.master.until(pair.volume, 'all is in place', () => lazy.socket.bytesWritten > 0)
    t.match(await takeOver(t, pair.master, pair.config), { code: 0 })
    client.send(half.data.subarray(20_000))
    t.equal((await half.reply).error, ERR.NONE, `${style}: the rest of a write`)
    t.ok((await client.read(MiB, 64 << 10)).data.equals(Buffer.alloc(64 << 10, 0x5a)))
    if (style !== 'simple') {
      const { extents } = await client.request({ type: CMD.BLOCK_STATUS, offset: 0, length: MiB })
      t.equal(extents.size, contexts.length, `${style}: the contexts that were selected`)
    }
    refused.send(skipped.data.subarray(40_000))
    t.equal((await skipped.reply).error, ERR.EINVAL, `${style}: the rest of a write that is skipped`)
    t.ok((await refused.read(0, MiB)).data.equals(written))
    lazy.socket.resume()
    const replies = await Promise.all(reads)
    t.ok(
      replies.every(reply => reply.error === 0 && reply.data.equals(written)),
      `${style}: replies that were not read`,
    )
    await Promise.all([client.disconnect(), refused.disconnect(), lazy.disconnect()])
  }
})

t.test(
  'sockets keep their files, ports and modes; who connects meanwhile is served; a stop leaves nothing',
  async t => {
    const pair = await startSuccession(t)
    const port = /export disk1 at nbd:\/\/127\.0\.0\.1:(\d+)/.exec(pair.master.program.stdout)?.[1]
    const knocking = new AbortController()
    let [served, whole, half] = [0, 0, 0]
    const knock = (async () => {
      while (!knocking.signal.aborted) {
        const client = await NbdClient.attach(
          served % 2 === 0 ? { path: pair.socket } : { host: '127.0.0.1', port: Number(port) },
          pair.volume,
        )
        t.equal((await client.read(0, 512)).error, 0)
        await client.disconnect()
        served++
      }
    })()
    const scrape = (async () => {
      while (!knocking.signal.aborted) {
        try {
          const [text, { volumes }] = [await scrapeOnce(pair.metrics.master), await pair.master.status()]
          whole += /^understudy_build_info/m.test(text) && volumes.length === 1 ? 1 : 0
          half += volumes.length === 1 ? 0 : 1
        } catch (error) {
          // One that was under way may be cut off at the hand-over, but nobody is refused.
          const code = (error as { code?: unknown }).code
          t.ok(['ECONNRESET', 'DAEMON_LEFT'].includes(String(code)), `cut off: ${String(code)}`)
        }
      }
    })()
    for (let turn = 0; turn < 2; turn++) {
      t.match(await takeOver(t, pair.master, pair.config), { code: 0 })
      t.ok(pair.master.program.stdout.includes(`nbd://127.0.0.1:${port}`), 'the port the kernel chose at first')
    }
    await becomes(t, 'clients came and went, and looks', () => served > 5 && whole > 5)
    knocking.abort()
    await Promise.all([knock, scrape])
    t.ok(served > 5, `${served} clients came and went`)
    t.ok(whole > 5, `${whole} scrapes and statuses`)
    t.equal(half, 0, 'a status is never of half a daemon')
    for (const path of [pair.socket, `${pair.master.state}/control.sock`])
      t.equal(statSync(path).mode & 0o777, 0o600, path)
    t.equal(readFileSync(`${pair.master.state}/lock`, 'utf8'), `${pair.master.program.pid}\n`)
    t.match(await pair.master.stop(), { code: 0 })
    for (const path of [pair.socket, `${pair.master.state}/control.sock`])
      t.throws(() => statSync(path), { code: 'ENOENT' }, path)
    await t.rejects(
      new Promise((resolve, reject) => connect(Number(port), '127.0.0.1').on('error', reject).on('connect', resolve)),
    )
  },
)

t.test('a standby is taken over while its master writes: it follows on, and nothing is compared', async t => {
  const files = scratch(t)
  const [masterId, standbyId] = [identityOf(files.path('m')), identityOf(files.path('s'))]
  const port = await freeUdpPort()
  const device = await sparseFile(files.path('disk.img'), 16 * MiB)
  const config = files.path('standby.toml')
  writeFileSync(
    config,
    `state = "${files.path('s')}"\n[standby]\nstore = "${files.path('store')}"\nlisten = "127.0.0.1:${port}"\nallow = ["${masterId}"]\n`,
  )
  const standby = await new Daemon(t, 'standby', files.path('s'), () => ['run', '--config', config]).start()
  const socket = files.path('nbd.sock')
  const master = await new Daemon(t, 'master', files.path('m'), () => [
    ...['master', '--state', files.path('m'), '--device', device, '--export', 'disk1', '--listen', `unix:${socket}`],
    ...['--standby', `${standbyId}@127.0.0.1:${port}`],
  ]).start()
  await master.until('disk1', 'replicating', volume => volume.state === 'replicating')
  const prober = await Prober.start(socket, 'disk1', { offset: 0, blocks: 1024 })
  for (let turn = 0; turn < 3; turn++) {
    await prober.answered(100)
    t.match(await takeOver(t, standby, config), { code: 0 })
    await master.until('disk1', 'replicating', volume => volume.state === 'replicating')
  }
  await prober.stop()
  t.equal(prober.failure, undefined)
  t.equal(master.program.stderr.match(/everything is compared/g)?.length, 1, 'but for the first synchronisation')
  t.match(await master.stop(), { code: 0 })
  t.match(await standby.stop(), { code: 0 })
  await sameBytes(t, device, `${files.path('store')}/disk1/image.raw`)
})
