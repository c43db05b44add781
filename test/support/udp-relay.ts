/**
 * A network with faults between a master and its standby: the master connects to port, packets go on to the standby
 * and back, each way with the same faults.
 */
import { createSocket, type Socket } from 'node:dgram'
import { seededRandom } from './history.js'

export class UdpRelay {
  /** Chances of a packet, 0 to 1. */
  loss = 0
  duplication = 0
  /** Comes 3 to 13 ms late, behind others. */
  reordering = 0
  delayMs = 0
  port = 0
  readonly #front = createSocket('udp4')
  /** By the master's port: the socket that speaks for it to the standby. */
  readonly #backs = new Map<number, Socket>()
  readonly #random: () => number
  #closed = false

  private constructor(
    private readonly standbyPort: number,
    seed: number,
  ) {
    this.#random = seededRandom(seed)
  }

  static async open(standbyPort: number, seed: number): Promise<UdpRelay> {
    const relay = new UdpRelay(standbyPort, seed)
    const front = relay.#front
    front.on('message', (packet, from) => relay.#up(packet, from.port))
    await new Promise<void>(resolve => front.bind(0, '127.0.0.1', resolve))
    relay.port = front.address().port
    return relay
  }

  /** From now on the standby sees the master at another port, as behind a NAT that has forgotten it. */
  rebind(): void {
    for (const back of this.#backs.values()) back.close()
    this.#backs.clear()
  }

  close(): void {
    this.#closed = true
    this.#front.close()
    this.rebind()
  }

  #up(packet: Buffer, port: number): void {
    let back = this.#backs.get(port)
    if (back === undefined) {
      back = createSocket('udp4')
      back.on('message', reply => this.#pass(() => this.#front.send(reply, port, '127.0.0.1')))
      this.#backs.set(port, back)
    }
    const through = back
    this.#pass(() => {
      if (this.#backs.get(port) === through) through.send(packet, this.standbyPort, '127.0.0.1')
    })
  }

  #pass(send: () => void): void {
    const random = this.#random
    if (random() < this.loss) return
    for (let copies = random() < this.duplication ? 2 : 1; copies > 0; copies--) {
      const late = this.delayMs + (random() < this.reordering ? 3 + 10 * random() : 0)
      if (late === 0) send()
      else setTimeout(() => { if (!this.#closed) send() }, late) // prettier-ignore
    }
  }
}
