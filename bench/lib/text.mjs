// Figures as text: cells, tables, colours.

export const units = {
  requests: value => `${value >= 1e5 ? (value / 1000).toFixed(0) : (value / 1000).toFixed(1)}k/s`,
  bytes: value => `${(value / 1e6).toFixed(0)} MB/s`,
  us: value => (value >= 10_000 ? `${(value / 1000).toFixed(1)} ms` : `${value.toFixed(value >= 100 ? 0 : 1)} us`),
  ms: value => `${value.toFixed(0)} ms`,
  mib: value => `${value.toFixed(0)} MiB`,
  percent: value => `${value.toFixed(2)} %`,
  times: value => `${value.toFixed(2)} x`,
  number: value => value.toFixed(1),
  count: value => value.toFixed(0),
}

export function cell(found, show) {
  if (found === null) return 'void'
  return found.count === 1 ? show(found.median) : `${show(found.median)} [${show(found.min)}..${show(found.max)}]`
}

/** What is asked of a figure, e.g. `at least 1.60 x`. */
export function wanted(figure) {
  const show = units[figure.unit]
  return figure.atLeast !== undefined ? `at least ${show(figure.atLeast)}` : `at most ${show(figure.atMost)}`
}

/** Rows of cells, the first row being the heading. */
export function render(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map(row => String(row[column]).length)))
  const line = row =>
    row
      .map((text, column) => String(text).padEnd(widths[column]))
      .join('  ')
      .trimEnd()
  return [line(rows[0]), widths.map(width => '-'.repeat(width)).join('  '), ...rows.slice(1).map(line)].join('\n')
}

const colours = { good: 32, missed: 31, void: 31, absent: 90 }

/** The whole line in the colour of its state, where somebody looks at it. */
export function coloured(text, state, stream = process.stdout) {
  return stream.isTTY || process.env.FORCE_COLOR ? `\x1b[${colours[state]}m${text}\x1b[0m` : text
}
