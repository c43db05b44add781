/**
 * The engine's latency buckets as a Prometheus histogram. Bucket i of 32 counts requests that took [2^(i+8), 2^(i+9))
 * nanoseconds; bucket 0 also what was faster, bucket 31 also what was slower. A boundary value lies in the bucket above
 * it: at whole nanoseconds `le` is exact but for a request of precisely a power of two.
 */
import type { Counters } from '../native/counters.js'
import { latencyBuckets, type RequestKind } from './counter-names.js'
import { counter } from './source.js'

export interface LatencyHistogram {
  /** Cumulative, in rising order, the last with `le` +Inf and the total. Seconds. */
  buckets: { le: string; count: number }[]
  sumSeconds: number
  count: number
}

/** The count is that of the buckets, not of the request counter: the three figures of a histogram must agree. */
export function latencyHistogram(counters: Counters, kind: RequestKind): LatencyHistogram {
  const buckets: LatencyHistogram['buckets'] = []
  let count = 0
  for (let bucket = 0; bucket < latencyBuckets; bucket++) {
    count += counter(counters, `latency_${kind}_${bucket}`)
    buckets.push({ le: upperBounds[bucket] ?? '+Inf', count })
  }
  return { buckets, sumSeconds: counter(counters, `latency_sum_ns_${kind}`) / 1e9, count }
}

const upperBounds = Array.from({ length: latencyBuckets - 1 }, (_, bucket) => String(2 ** (bucket + 9) / 1e9))
