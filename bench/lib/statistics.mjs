// Medians, percentiles and spreads.

/**
 * Of what is not null: { median, min, max, count }; null when there is nothing. `percent`: in place of the median the
 * smallest one that so many per cent of them do not exceed.
 */
export function spread(values, percent) {
  const sorted = values.filter(value => value !== null).sort((a, b) => a - b)
  if (sorted.length === 0) return null
  const median = percent === undefined ? medianOf(sorted) : sorted[Math.ceil((sorted.length * percent) / 100) - 1]
  return { median, min: sorted[0], max: sorted.at(-1), count: sorted.length }
}

function medianOf(sorted) {
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** combine(a, b) round by round, null where either is: a ratio taken within a round does not see the machine get slower. */
export function paired(a, b, combine) {
  return a.map((value, round) => {
    const other = b[round] ?? null
    return (value ?? null) === null || other === null ? null : combine(value, other)
  })
}
