/** Spreads the addon's events, which come through one callback, to the parts that want them. */
import type { AddonEvent } from '../native/binding.js'
import { describe } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { EventSource } from './roles.js'

export class EventHub implements EventSource {
  private readonly listeners = new Set<(event: AddonEvent) => void>()

  constructor(private readonly log: Logger) {}

  subscribe(listener: (event: AddonEvent) => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** A listener that throws is a defect of its own; the others still hear the event. */
  readonly emit = (event: AddonEvent): void => {
    if (event.type === 'log') this.log.area('native')[event.level](event.message)
    for (const listener of [...this.listeners]) {
      try {
        listener(event)
      } catch (error) {
        this.log.error(`event ${event.type}: a listener failed: ${describe(error)}`)
      }
    }
  }
}
