/**
 * What a daemon and its successor say to each other, on the channel that the successor has opened:
 *
 *   successor                      predecessor
 *   begin           ->
 *                   <-             estate, with its descriptors   or   kept: why (it has changed its mind)
 *   ready or failed ->                                                 (failed: it has closed everything again)
 *                   <-             yours (and it ends)            or   kept: why (it has taken all back)
 *
 * Until `yours` the clients are the predecessor's: the successor answers none of them. A side that ends is noticed by
 * the end of the channel; one that says nothing, by the limit of the wait.
 */
import { OperationError } from '../core/errors.js'
import type { Addon } from '../native/binding.js'
import { decodeEstate, encodeEstate, type Estate } from './estate.js'

export type Message =
  | { type: 'begin' }
  | ({ type: 'estate'; estate: Estate } & EstateTerms)
  | { type: 'ready' }
  | { type: 'failed'; why: string }
  | { type: 'yours' }
  | { type: 'kept'; why: string }

export interface EstateTerms {
  /** The successor gives up by itself when it is not ready within the time. */
  readyMs: number
  /** How long clients had waited when it was said. */
  waitedMs: number
}

const sendMs = 5_000

export class Conversation {
  constructor(
    private readonly addon: Addon,
    private readonly channel: number,
  ) {}

  /** The process at the other end; 0: unknown. */
  get peer(): number {
    return this.addon.channelPeer(this.channel)
  }

  /** The descriptors of an estate stay the caller's. */
  async say(message: Message): Promise<void> {
    if (message.type !== 'estate') return this.addon.channelSend(this.channel, JSON.stringify(message), [], sendMs)
    const { document, fds } = encodeEstate(message.estate)
    await this.addon.channelSend(this.channel, JSON.stringify({ ...message, estate: document }), fds, sendMs)
  }

  /** Rejects with ETIMEDOUT, or ECONNRESET when the other side has ended. */
  async hear(limitMs: number): Promise<Message> {
    const { text, fds } = await this.addon.channelReceive(this.channel, limitMs)
    const message = JSON.parse(text) as { type: string; estate?: object; why?: string } & Partial<EstateTerms>
    const { type, estate, why = '', readyMs = 0, waitedMs = 0 } = message
    if (type === 'estate' && estate !== undefined) return { type, estate: decodeEstate(estate, fds), readyMs, waitedMs }
    if (type === 'failed' || type === 'kept') return { type, why }
    if (type === 'begin' || type === 'ready' || type === 'yours') return { type }
    throw new OperationError(
      'TAKEOVER',
      `takeover: the other process says '${type.slice(0, 40)}', which is not known here`,
    )
  }

  close(): void {
    this.addon.channelClose(this.channel)
  }
}
