/** How the records of a session travel: what the configuration asks for, if the standby can take it. */
import type { Compression } from '../core/config-types.js'
import { UnderstudyError } from '../core/errors.js'
import type { Logger } from '../core/log.js'
import type { CompressionStatus } from '../core/status-types.js'
import type { Counters } from '../native/counters.js'
import type { Welcome } from '../transport/messages.js'

/** From a welcome to a hello that asked for `asked`. A standby that does not know it says nothing, or off. */
export function compressionOf(asked: Compression, { compress }: Pick<Welcome, 'compress'>, log: Logger): Compression {
  if (compress === asked) return asked
  if (compress !== '' && compress !== 'off')
    throw new UnderstudyError(
      'PROTOCOL',
      `the standby expects records compressed by ${compress}, ${asked} was asked for`,
    )
  if (asked !== 'off') log.warn(`compress: ${whyNot(asked)}; everything is sent as it is`)
  return 'off'
}

export function compressionStatus(
  asked: Compression,
  link: { state: string | undefined; compress: Compression },
  counters: Counters,
): CompressionStatus {
  const raw = counters['compress_raw_bytes'] ?? 0n
  const sent = counters['compress_sent_bytes'] ?? 0n
  return {
    asked,
    inForce: link.compress,
    reason: link.state === 'connected' && link.compress !== asked ? whyNot(asked) : '',
    ratio: sent === 0n ? null : Number(raw) / Number(sent),
  }
}

const whyNot = (asked: Compression): string => `the standby does not know ${asked}, its program is older`
