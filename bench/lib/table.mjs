// Medians, spreads and ratios, as numbers and as text.

export function spread(values) {
  const sorted = values.filter(value => value !== null).sort((a, b) => a - b)
  if (sorted.length === 0) return null
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  return { median, min: sorted[0], max: sorted.at(-1), count: sorted.length }
}

/** a/b round by round; a void measurement takes its round out. */
export function ratios(a, b) {
  return spread(a.map((value, round) => (value === null || (b[round] ?? null) === null ? null : value / b[round])))
}

export const rate = (value, unit) =>
  unit === 'iops' ? `${(value / 1000).toFixed(1)}k/s` : `${(value / 1e6).toFixed(0)} MB/s`

export function cell(found, show) {
  return found === null ? 'void' : `${show(found.median)} [${show(found.min)}..${show(found.max)}]`
}

/** Rows of cells, the first row being the heading. */
export function render(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map(row => String(row[column]).length)))
  const line = (row) => row.map((text, column) => String(text).padEnd(widths[column])).join('  ').trimEnd() // prettier-ignore
  return [line(rows[0]), widths.map(width => '-'.repeat(width)).join('  '), ...rows.slice(1).map(line)].join('\n')
}
