/**
 * Whether a program in the guest accepts connections to a TCP port: QEMU's user network forwards a port of this host's
 * loopback there, and nothing else (restrict=on): the guest reaches nobody, above all not the network of its original.
 *
 * That a connection to the forwarded port is accepted says nothing: QEMU does so itself. Its list of connections says in
 * which state the guest's half is.
 */
import { connect, type Socket } from 'node:net'

import type { Qmp } from './qmp.js'

/** Port 0: the kernel chooses. */
export const networkFor = (port: number): string[] => [
  '-nic',
  `user,id=drill,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:0-:${port}`,
]

export class GuestPort {
  #attempt: Socket | undefined

  constructor(
    private readonly qmp: Qmp,
    private readonly port: number,
  ) {}

  /** To be asked now and then. */
  async answers(): Promise<boolean> {
    const list = await this.qmp.ask('info usernet')
    if (isEstablished(list, this.port)) return true
    const forwarded = forwardedPort(list, this.port)
    if (forwarded !== undefined && (this.#attempt === undefined || this.#attempt.destroyed))
      this.#attempt = connect(forwarded, '127.0.0.1').on('error', () => undefined)
    return false
  }

  close(): void {
    this.#attempt?.destroy()
  }
}

/** A line: `TCP[ESTABLISHED]  16  127.0.0.1  40001  10.0.2.15  22  0  0`. */
export const isEstablished = (list: string, port: number): boolean =>
  new RegExp(`TCP\\[ESTABLISHED\\]\\s+\\d+\\s+\\S+\\s+\\d+\\s+\\S+\\s+${port}\\s`).test(list)

/** A line: `TCP[HOST_FORWARD]  9  127.0.0.1  40001  10.0.2.15  22  0  0`. */
export function forwardedPort(list: string, port: number): number | undefined {
  const match = new RegExp(`TCP\\[HOST_FORWARD\\]\\s+\\d+\\s+127\\.0\\.0\\.1\\s+(\\d+)\\s+\\S+\\s+${port}\\s`).exec(
    list,
  )
  return match?.[1] === undefined ? undefined : Number(match[1])
}
