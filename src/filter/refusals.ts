/**
 * File systems that the engine would not take, because they had changed too much since they were read: after some tries one
 * is replicated whole for a while, so that a step does not stay open.
 */
import type { FileSystemContent } from '../native/binding.js'

const triesMax = 4
const heldMs = 60_000

interface Refusal {
  tries: number
  /** 0: not held. */
  untilMs: number
}

export class Refusals {
  readonly #refused = new Map<string, Refusal>()

  /** True: it is held from now on. */
  add(content: FileSystemContent, nowMs: number): boolean {
    const refusal = this.#refused.get(keyOf(content)) ?? { tries: 0, untilMs: 0 }
    refusal.tries++
    if (refusal.tries >= triesMax) refusal.untilMs = nowMs + heldMs
    this.#refused.set(keyOf(content), refusal)
    return refusal.untilMs > 0
  }

  clear(content: FileSystemContent): void {
    this.#refused.delete(keyOf(content))
  }

  /** '' : it may be followed. */
  why(content: FileSystemContent, nowMs: number): string {
    const refusal = this.#refused.get(keyOf(content))
    return refusal !== undefined && refusal.untilMs > nowMs
      ? 'it changes faster than it can be read; tried again within a minute'
      : ''
  }

  /** One may be tried again. */
  isOver(nowMs: number): boolean {
    return [...this.#refused.values()].some(({ untilMs }) => untilMs > 0 && untilMs <= nowMs)
  }
}

/** Which file system it is, as long as nobody makes it anew. */
export function keyOf({ partition, logicalVolume, kind, uuid }: FileSystemContent): string {
  return [partition, logicalVolume, kind, uuid].join(' ')
}
