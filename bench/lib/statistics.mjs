// Medians and spreads.

/** Of what is not null: { median, min, max, count }; null when there is nothing. */
export function spread(values) {
  const sorted = values.filter(value => value !== null).sort((a, b) => a - b)
  if (sorted.length === 0) return null
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  return { median, min: sorted[0], max: sorted.at(-1), count: sorted.length }
}

/** combine(a, b) round by round, null where either is: a ratio taken within a round does not see the machine get slower. */
export function paired(a, b, combine) {
  return a.map((value, round) => {
    const other = b[round] ?? null
    return (value ?? null) === null || other === null ? null : combine(value, other)
  })
}
