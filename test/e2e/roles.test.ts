// timeout: 120
/**
 * `run --config`: two daemons, each the master of its own volumes and the standby of the other's. A group of two
 * volumes has one history: a client writes a number to the first volume, and when that is acknowledged to the second.
 * No cut of the standby shows the second without the first (G2 across volumes), whichever daemon is killed.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import type { Test as Tap } from 'tap'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { ExportEvent } from '../../src/daemon/control-protocol.js'
import {
  Daemon,
  freeUdpPort,
  identityOf,
  sameBytes,
  type Scratch,
  scratch,
  sleep,
  sparseFile,
} from '../support/daemon.js'
import { NbdClient } from '../support/nbd-client.js'
import { readAll } from '../support/observer.js'

const sizeBytes = 4 << 20
const spreadBlocks = 200

interface Host {
  name: string
  daemon: Daemon
  socket: string
}

async function startHosts(t: Tap, files: Scratch): Promise<[Host, Host]> {
  const names = ['left', 'right'] as const
  const ids = names.map(name => identityOf(files.path(name)))
  const ports = await Promise.all(names.map(() => freeUdpPort()))
  const hosts = names.map((name, own): Host => {
    const config = files.path(`${name}.toml`)
    writeFileSync(config, toml(files, name, ports[own] ?? 0, `${ids[1 - own]}@127.0.0.1:${ports[1 - own]}`))
    const daemon = new Daemon(t, name, files.path(name), () => ['run', '--config', config])
    return { name, daemon, socket: files.path(`${name}.sock`) }
  })
  for (const name of names)
    for (const disk of ['first', 'second', 'alone']) await sparseFile(files.path(`${name}-${disk}.img`), sizeBytes)
  await Promise.all(hosts.map(({ daemon }) => daemon.start()))
  return hosts as [Host, Host]
}

const toml = (files: Scratch, name: string, port: number, peer: string): string => `
state = "${files.path(name)}"
[nbd]
listen = ["unix:${files.path(`${name}.sock`)}"]
[[group]]
name = "${name}-pair"
standby = "${peer}"
peer_timeout = "1s"
${['first', 'second'].map(disk => `[[group.volume]]\nexport = "${name}-${disk}"\ndevice = "${name}-${disk}.img"`).join('\n')}
[[group]]
standby = "${peer}"
[[group.volume]]
export = "${name}-alone"
device = "${name}-alone.img"
[standby]
store = "${name}-store"
listen = "127.0.0.1:${port}"
allow = ["${peer.slice(0, 64)}"]
`

/** Writes 1, 2, 3 ... to both volumes in turn, to a fixed block and to one that changes, until told to stop. */
class Counter {
  stopping = false
  readonly ended: Promise<void>
  #number = 0

  constructor(private readonly host: Host) {
    this.ended = this.#run()
  }

  async #run(): Promise<void> {
    while (!this.stopping) await this.#connection().catch(() => sleep(20))
  }

  async #connection(): Promise<void> {
    const clients: NbdClient[] = []
    try {
      for (const disk of ['first', 'second'])
        clients.push(await NbdClient.attach({ path: this.host.socket }, `${this.host.name}-${disk}`))
      while (!this.stopping) {
        const block = Buffer.alloc(4096)
        block.writeUInt32LE(++this.#number)
        for (const client of clients)
          for (const at of [0, 1 + (this.#number % spreadBlocks)]) await client.write(at * 4096, block)
      }
    } finally {
      for (const client of clients) client.destroy()
    }
  }
}

let exports = 0

/** The number that the standby's copy of the volume shows, after a look at whether its blocks fit together. */
async function shown(t: Tap, files: Scratch, standby: Host, volume: string): Promise<number> {
  const socket = files.path(`export-${++exports}.sock`)
  const data = await exported(standby, volume, socket)
  const numbers = Array.from({ length: 1 + spreadBlocks }, (_, block) => data.readUInt32LE(block * 4096))
  const [fixed = 0] = numbers
  const spread = Math.max(...numbers.slice(1))
  t.ok(spread === fixed || spread === fixed - 1, `${volume}: its blocks are of one moment (${fixed}, ${spread})`)
  return fixed
}

/** Through an export that ends when it has been read. */
async function exported({ daemon }: Host, volume: string, socket: string): Promise<Buffer> {
  const request = { volume, listen: `unix:${socket}`, writable: false, detach: false, at: '' }
  let content: Buffer | undefined
  for await (const _ of new ControlClient(daemon.state).stream<ExportEvent>('/export', request)) {
    content = await readAll(socket, volume, (1 + spreadBlocks) * 4096)
    break // ends the export
  }
  if (content === undefined) throw new Error(`export ${volume}: the daemon ended it at once`)
  return content
}

async function inSync(host: Host): Promise<void> {
  for (const disk of ['first', 'second', 'alone'])
    await host.daemon.until(
      `${host.name}-${disk}`,
      'in sync',
      volume =>
        volume.state === 'replicating' && volume.applied === volume.written && volume.dirtyBytes === 0 && volume.usable,
    )
}

/** Nothing more comes, and all that came is in the copies: between two looks they do not move. */
async function applied(standby: Host, volumes: string[]): Promise<void> {
  for (let moved = true; moved; await sleep(100)) {
    moved = false
    for (const name of volumes)
      await standby.daemon.until(name, 'all that came is applied', volume => {
        const rests = volume.applied === volume.received && volume.durable === volume.received
        if (rests && lastApplied.get(name) !== volume.applied) {
          lastApplied.set(name, volume.applied)
          moved = true
        }
        return rests
      })
  }
}
const lastApplied = new Map<string, string>()

t.test('two daemons mirrored at each other: volumes of one group have one cut, and every copy ends equal', async t => {
  const files = scratch(t)
  const hosts = await startHosts(t, files)
  for (const host of hosts) await inSync(host)
  const counters = hosts.map(host => new Counter(host))
  t.teardown(() => counters.forEach(counter => (counter.stopping = true)))
  for (const [master, standby] of [hosts, [hosts[1], hosts[0]]] as const) {
    await sleep(500)
    const order = async (title: string): Promise<void> => {
      const second = await shown(t, files, standby, `${master.name}-second`)
      const first = await shown(t, files, standby, `${master.name}-first`)
      t.ok(first >= second, `${title}: the second volume is never ahead of the first (${first}, ${second})`)
    }
    await order('while writing')
    await master.daemon.kill()
    await applied(standby, [`${master.name}-first`, `${master.name}-second`])
    const second = await shown(t, files, standby, `${master.name}-second`)
    const first = await shown(t, files, standby, `${master.name}-first`)
    t.ok(first === second || first === second + 1, `killed: both volumes are at one cut (${first}, ${second})`)
    await master.daemon.restart()
    await order('while coming back')
  }
  for (const counter of counters) counter.stopping = true
  await Promise.all(counters.map(({ ended }) => ended))
  for (const host of hosts) await inSync(host)
  const endings = await Promise.all(hosts.map(({ daemon }) => daemon.stop()))
  t.strictSame(endings.map(({ code }) => code), [0, 0]) // prettier-ignore
  for (const [master, standby] of [
    ['left', 'right'],
    ['right', 'left'],
  ] as const)
    // prettier-ignore
    for (const disk of ['first', 'second', 'alone']) {
      const volume = `${master}-${disk}`
      await sameBytes(t, files.path(`${volume}.img`), files.path(`${standby}-store/${volume}/image.raw`), `${volume} is equal`)
    }
  t.ok(readFileSync(files.path('left-second.img')).readUInt32LE(0) > 0, 'something was written')
})
