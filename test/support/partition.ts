/**
 * A network between a master and its standby that can be cut, and neither is told: packets are lost, and the bytes of
 * connections stay where they are. For both transports: the master connects to port, by UDP or by TCP.
 */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { UdpRelay } from './udp-relay.js'

export class Partition {
  readonly #sockets = new Set<Socket>()
  readonly #server = createServer(front => this.#join(front))
  #isCut = false

  private constructor(
    private readonly standbyPort: number,
    private readonly packets: UdpRelay,
  ) {}

  static async open(standbyPort: number): Promise<Partition> {
    for (;;) {
      const made = new Partition(standbyPort, await UdpRelay.open(standbyPort, 1))
      try {
        await once(made.#server.listen(made.port, '127.0.0.1'), 'listening')
        return made
      } catch (error) {
        made.close()
        if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error // free for one of the two only
      }
    }
  }

  get port(): number {
    return this.packets.port
  }

  cut(isCut: boolean): void {
    this.#isCut = isCut
    this.packets.loss = isCut ? 1 : 0
    for (const socket of this.#sockets) this.#stand(socket)
  }

  close(): void {
    this.packets.close()
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
  }

  #join(front: Socket): void {
    const back = connect(this.standbyPort, '127.0.0.1')
    for (const [from, to] of [
      [front, back],
      [back, front],
    ] as const) {
      this.#sockets.add(from)
      from.on('data', bytes => to.write(bytes))
      from.on('error', () => undefined) // 'close' follows
      from.on('close', () => {
        this.#sockets.delete(from)
        to.destroy()
      })
      this.#stand(from)
    }
  }

  /** One that stands still is not read, so that neither bytes nor its end come through. */
  #stand(socket: Socket): void {
    if (this.#isCut) socket.pause()
    else socket.resume()
  }
}
