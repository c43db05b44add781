// A result: the document that is written as JSON, and how it reads on a terminal.
import { replicatedSecondsMin } from './plan.mjs'
import { judge } from './verdict.mjs'
import { spread } from './statistics.mjs'
import { cell, coloured, render, units, wanted } from './text.mjs'

/** What is kept of a part: its samples, and its figures judged. */
export function judged(part, samples) {
  const { name, title, place, peers, loads } = part
  const figures = part.figures.map(figure => ({ ...figure, ...judge(figure, samples[figure.load] ?? {}) }))
  return { name, title, place, peers, loads, samples, figures }
}

/** Rates (medians, and from..to), and below them the p99 of a request and the servers' CPU for it. */
export function rateTable({ peers, loads, samples }) {
  const rows = [['', ...peers]]
  for (const load of loads) {
    const row = (title, measure, unit, percent) => {
      const found = peers.map(name => {
        const values = (samples[load.name][name] ?? []).map(one => (one.void ? null : (one[measure] ?? null)))
        const all = spread(values, percent)
        return percent === undefined || all === null ? all : { ...all, count: 1 }
      })
      if (found.some(one => one !== null))
        rows.push([title, ...found.map((one, i) => shown(one, samples[load.name][peers[i]], units[unit]))])
    }
    row(load.name, 'rate', load.unit)
    row('  p50', 'p50Us', 'us')
    row('  p99', 'p99Us', 'us')
    row('  flush p50', 'flushP50Us', 'us')
    row('  CPU of a request', 'cpuUs', 'us')
    for (const { measure, title, unit, percent } of load.measures ?? []) row(title, measure, unit, percent)
  }
  return render(rows)
}

function shown(found, samples, show) {
  if (found !== null) return cell(found, show)
  return samples?.some(one => one.void) ? `void: ${samples.find(one => one.void).void}` : ''
}

export function figureLines(parts) {
  const figures = parts.flatMap(part => part.figures)
  const rows = figures.map(figure => [
    figure.text,
    figure.load,
    figure.value === null
      ? figure.state === 'void'
        ? `void: ${figure.voids[0]}`
        : 'not measured'
      : cell(figure.value, units[figure.unit]),
    wanted(figure),
    figure.against === null ? '' : `against ${figure.against}`,
    { good: 'yes', missed: 'NO', void: 'VOID', absent: '' }[figure.state],
  ])
  const [head, line, ...lines] = render([['figure', 'load', 'median [min..max]', 'wanted', '', ''], ...rows]).split(
    '\n',
  )
  return [head, line, ...lines.map((text, index) => coloured(text, figures[index].state))]
}

/** How the measurements of these parts went, as sentences: how long the replicated ones waited, and what is void. */
export function honesty(parts) {
  const samples = parts.flatMap(part => Object.values(part.samples).flatMap(Object.values).flat())
  const waited = samples.filter(one => one.waited !== undefined).map(({ seconds }) => seconds)
  const reasons = samples.flatMap(one => one.void ?? [])
  const void_ = reasons.length === 0 ? 'none' : `${reasons.length} (${[...new Set(reasons)].join('; ')})`
  const short =
    Math.min(...waited) < replicatedSecondsMin
      ? `, a first look: rates that replicate are asked for over at least ${replicatedSecondsMin} s`
      : ''
  return [
    ...(waited.length > 0
      ? [
          `${waited.length} of these measurements ended when applied = written, after ${Math.min(...waited).toFixed(1)} s or more${short}.`,
        ]
      : []),
    `Void of ${samples.length} measurements: ${void_}.`,
  ].join(' ')
}

/** Nothing that was measured is missed or void. */
export const allGood = parts =>
  parts.every(part => part.figures.every(({ state }) => state === 'good' || state === 'absent'))
