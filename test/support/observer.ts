/**
 * Looks at a pair of daemons (daemon.ts) often and cheaply: status over the control socket without starting a process,
 * and the bytes that each side shows to clients.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { VolumeStatus } from '../../src/core/status-types.js'
import { ControlClient } from '../../src/daemon/control-client.js'
import type { ExportEvent } from '../../src/daemon/control-protocol.js'
import { type Pair, PATIENCE, SLOWER } from './daemon.js'
import { NbdClient } from './nbd-client.js'
import { nextLookMs } from './patience.js'

/** `at`: where it stands, as typed. */
export interface Shown {
  at: string
  content: Buffer
}

export class Observer {
  readonly #clients: { master: ControlClient; standby: ControlClient }
  #exports = 0

  constructor(
    readonly pair: Pair,
    readonly sizeBytes: number,
    private readonly sockets = { master: pair.socket, standby: '' },
  ) {
    this.#clients = { master: new ControlClient(pair.master.state), standby: new ControlClient(pair.standby.state) }
  }

  /** As one side sees it; undefined when that side does not answer or does not know the volume. */
  async status(side: 'master' | 'standby' = 'master'): Promise<VolumeStatus | undefined> {
    const document = await this.#clients[side].status().catch(() => undefined)
    return document?.volumes.find(volume => volume.name === this.pair.volume)
  }

  /** applied = written and nothing dirty, on a standby that can be used. */
  waitInSync(milliseconds = 20_000): Promise<void> {
    return this.until('applied = written and nothing dirty', milliseconds * PATIENCE, async () => {
      const status = await this.status()
      return (
        status?.state === 'replicating' && status.usable && status.applied === status.written && status.dirtyBytes === 0
      )
    })
  }

  async until(what: string, milliseconds: number, condition: () => Promise<boolean> | boolean): Promise<void> {
    const began = performance.now()
    while (!(await condition())) {
      const waited = performance.now() - began
      if (waited < milliseconds * SLOWER) {
        await sleep(nextLookMs(waited))
        continue
      }
      const [master, standby] = await Promise.all([this.status('master'), this.status('standby')])
      const { pair } = this
      const logs = [pair.master, pair.standby].map(daemon => daemon.program.tail(40)).join('')
      throw new Error(
        `not within ${milliseconds} ms: ${what}\nmaster ${JSON.stringify(master)}\nstandby ${JSON.stringify(standby)}${logs}`,
      )
    }
  }

  /** What the standby puts on stage now, exported and read by a client. Throws the daemon's refusal. */
  async exported(): Promise<Buffer> {
    return (await this.shown()).content
  }

  /** The same, or what its history has of a moment (as typed). */
  async shown(at = ''): Promise<Shown> {
    const path = this.pair.scratch.path(`export-${++this.#exports}.sock`)
    const request = { volume: this.pair.volume, listen: `unix:${path}`, writable: false, detach: false, at }
    for await (const { position } of this.#clients.standby.stream<ExportEvent>('/export', request)) {
      // Leaving the loop ends the export.
      const content = await readAll(path, this.pair.volume, this.sizeBytes)
      return { at: `${position.incarnation}:${position.sequence}`, content }
    }
    throw new Error('export: the daemon ended it at once')
  }

  /** The device as the master's clients read it. */
  masterContent(): Promise<Buffer> {
    return this.content('master')
  }

  /** The same of either side, while it reigns. */
  content(side: 'master' | 'standby'): Promise<Buffer> {
    return readAll(this.sockets[side], this.pair.volume, this.sizeBytes)
  }
}

/** All that an export holds, through a client of its own. */
export async function readAll(path: string, name: string, sizeBytes: number): Promise<Buffer> {
  const client = await NbdClient.attach({ path }, name)
  try {
    const content = Buffer.alloc(sizeBytes)
    const pieceBytes = 1 << 20
    for (let offset = 0; offset < sizeBytes; offset += pieceBytes) {
      const reply = await client.read(offset, Math.min(pieceBytes, sizeBytes - offset))
      if (reply.error !== 0) throw new Error(`read at ${offset}: error ${reply.error} ${reply.message}`)
      reply.data.copy(content, offset)
    }
    return content
  } finally {
    client.destroy()
  }
}
