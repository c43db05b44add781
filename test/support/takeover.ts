/** A pair whose master runs from a file, so that `run --takeover` can replace it, and a client that watches for stalls. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  Daemon,
  type Ended,
  inSync,
  type Owner,
  type Pair,
  type PairOptions,
  type Program,
  ROOT,
  SLOWER,
  startPair,
  understudy,
} from './daemon.js'
import { CMD, NbdClient } from './nbd-client.js'

export interface Succession extends Pair {
  /** The master's file. */
  config: string
}

/** As startPair(); `toml`, `volumeToml`: more lines for the [[group]] and its volume. */
export async function startSuccession(
  t: Owner,
  options: PairOptions & { toml?: string; volumeToml?: string } = {},
): Promise<Succession> {
  const pair = await startPair(t, { ...options, idle: true })
  const config = pair.scratch.path('master.toml')
  writeFileSync(
    config,
    `state = "${pair.master.state}"
[metrics]
listen = "127.0.0.1:${pair.metrics.master}"
[nbd]
listen = ["unix:${pair.socket}", "127.0.0.1:0"]
[[group]]
standby = "${pair.standbyId}@${pair.standbyAddress}"
${options.toml ?? ''}
[[group.volume]]
export = "${pair.volume}"
device = "${pair.device}"
${options.volumeToml ?? ''}
`,
  )
  pair.master = new Daemon(t, 'master', pair.master.state, () => ['run', '--config', config], options.masterEnv)
  await pair.standby.start()
  await pair.master.start()
  await inSync(pair)
  return { ...pair, config }
}

/** Starts a successor; the daemon is still who it was. */
export const successorOf = (t: Owner, config: string, env?: NodeJS.ProcessEnv, maxStall = patience): Program =>
  understudy(t, 'successor', ['run', '--config', config, '--takeover', '--max-stall', maxStall], env)

/** Of tests on a machine that is busy with other things: what is due to its haste is no failure. */
const patience = '20s'

/** For a successor: SIGKILL (or another fate) at a phase of takeover-hook.mjs. */
export const killedAt = (phase: string, fate = 'kill'): NodeJS.ProcessEnv => ({
  NODE_OPTIONS: `--import ${join(ROOT, 'test/support/takeover-hook.mjs')}`,
  TAKEOVER_PHASE: phase,
  TAKEOVER_FATE: fate,
})

/** The daemon is the successor from here on. Returns how the old one ended. */
export async function takeOver(t: Owner, daemon: Daemon, config: string): Promise<Ended> {
  const before = daemon.program
  const successor = successorOf(t, config)
  await successor.printed(/^understudy: ready/m)
  const ended = await before.gone()
  daemon.program = successor
  return ended
}

const blockBytes = 4096

/**
 * One connection that writes and reads back block after block, one request at a time, for as long as it is not stopped:
 * on each it expects the number it wrote last, and notes how long the slowest request took.
 */
export class Prober {
  requests = 0
  /** What went wrong; the first thing ends it. */
  failure: string | undefined
  #slowestMs = 0
  #stopping = false
  readonly #ended: Promise<void>

  static async start(path: string, volume: string, area: { offset: number; blocks: number }): Promise<Prober> {
    return new Prober(await NbdClient.attach({ path }, volume), area)
  }

  private constructor(
    readonly client: NbdClient,
    private readonly area: { offset: number; blocks: number },
  ) {
    this.#ended = this.#run().catch((error: unknown) => {
      this.failure = error instanceof Error ? error.message : String(error)
    })
  }

  /** Since the last call, a request that is under way included when it has ended. */
  takeSlowestMs(): number {
    const slowest = this.#slowestMs
    this.#slowestMs = 0
    return slowest
  }

  /** Waits until that many more requests were answered. */
  async answered(more: number, limitMs = 30_000): Promise<void> {
    const wanted = this.requests + more
    for (const end = performance.now() + limitMs * SLOWER; this.requests < wanted;) {
      if (this.failure !== undefined) throw new Error(`the client's requests: ${this.failure}`)
      if (performance.now() > end) throw new Error(`the client: ${more} requests were not answered in ${limitMs} ms`)
      await new Promise(resolve => setTimeout(resolve, 5))
    }
  }

  async stop(): Promise<void> {
    this.#stopping = true
    await this.#ended
    if (this.failure === undefined) await this.client.disconnect()
    else this.client.destroy()
  }

  async #run(): Promise<void> {
    const latest = new Uint32Array(this.area.blocks)
    for (let turn = 1; !this.#stopping; turn++) {
      const block = (turn * 7) % this.area.blocks
      const offset = this.area.offset + block * blockBytes
      const data = Buffer.alloc(blockBytes, turn)
      data.writeUInt32LE(turn)
      if (latest[block] !== 0) {
        const { data: found } = await this.#timed({ type: CMD.READ, offset, length: blockBytes })
        const number = found.readUInt32LE()
        if (number !== latest[block]) throw new Error(`block ${block} holds ${number}, not ${latest[block]}`)
      }
      await this.#timed({ type: CMD.WRITE, offset, data })
      latest[block] = turn
      if (turn % 64 === 0) await this.#timed({ type: CMD.FLUSH })
    }
  }

  async #timed(request: Parameters<NbdClient['request']>[0]): ReturnType<NbdClient['request']> {
    const began = performance.now()
    const reply = await this.client.request(request)
    this.#slowestMs = Math.max(this.#slowestMs, performance.now() - began)
    if (reply.error !== 0) throw new Error(`request of type ${request.type}: error ${reply.error}`)
    this.requests++
    return reply
  }
}
