/** Events of the addon as the parts of src/ get them: one callback of the addon, many subscribers. */
import type { AddonEvent } from './binding.js'

export interface EventSource {
  /** Returns what ends the subscription. Listeners are called on the JavaScript thread, in the order of the events. */
  subscribe(listener: (event: AddonEvent) => void): () => void
}
