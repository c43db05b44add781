// Writes results into the pages that show them: between the two lines `<!-- bench: NAME -->` and `<!-- /bench -->`.
import { chart } from './chart.mjs'
import { honesty } from './report.mjs'
import { spread } from './statistics.mjs'
import { cell, units, wanted } from './text.mjs'

const marks = { good: '🟢', missed: '🔴', void: '🔴 void' }

/**
 * All that is made of results: { pages: { path: text }, picture, kept }; `kept` is what is left of them in the repository, so
 * that the pages can be made again. `read(path)`: a page as it is.
 */
export function rendered(results, read) {
  const kept = JSON.stringify(latest(results), shortened) + '\n'
  const documents = JSON.parse(kept)
  const whole = merged(documents)
  const performance = {
    conditions: documents.map(conditions).join('\n\n'),
    figures: figureTable(whole),
    rates: rateTables(whole),
  }
  const pages = {
    'README.md': replaced(read('README.md'), 'summary', summary(whole, documents)),
    'docs/performance.md': Object.entries(performance).reduce(
      (page, [name, content]) => replaced(page, name, content),
      read('docs/performance.md'),
    ),
  }
  return { pages, picture: chart(whole), kept }
}

/** Five digits say all that a measurement knows. */
const shortened = (_, value) =>
  typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value

/** `text` with what stands between the lines replaced; an error when they are not there. */
export function replaced(text, name, content) {
  const pattern = new RegExp(`(<!-- bench: ${name} -->\n)[^]*?(<!-- /bench -->)`)
  if (!pattern.test(text))
    throw new Error(`there is no place for '${name}': <!-- bench: ${name} --> ... <!-- /bench -->`)
  return text.replace(pattern, (_, before, after) => `${before}${content}\n${after}`)
}

/** A part that is in more than one result is taken from the last; a result of which nothing is left is left out. */
export function latest(documents) {
  const later = documents.map((_, index) =>
    documents.slice(index + 1).flatMap(({ parts }) => parts.map(part => part.name)),
  )
  return documents
    .map((one, index) => ({ ...one, parts: one.parts.filter(({ name }) => !later[index].includes(name)) }))
    .filter(({ parts }) => parts.length > 0)
}

/** Several results as one. */
export function merged(documents) {
  return { ...documents[0], parts: latest(documents).flatMap(({ parts }) => parts) }
}

const machineLine = ({ processor, cores, memoryGiB, kernel }) =>
  `${processor}, ${cores} cores, ${memoryGiB} GiB, Linux ${kernel}`

/** What others had of the processors, as a sentence; of results that do not say: nothing. */
function noise(documents) {
  const samples = documents.flatMap(({ parts }) =>
    parts.flatMap(({ samples }) => Object.values(samples).flatMap(Object.values).flat()),
  )
  const others = spread(samples.map(one => one.others ?? null))
  return others === null ? '' : ` Other work had ${units.percent(others.median * 100)} of the processors (median).`
}

/** Where and how it was measured: without it a figure means nothing. */
function conditions(document) {
  const { machine, plan, parts } = document
  const shared = plan.shared ? ' **The machine was shared with other work: only ratios within a round count.**' : ''
  return (
    `Parts ${parts.map(({ name }) => name).join(', ')}: ${machineLine(machine)}; memory is ${machine.scratch}, the disk ${machine.disk}; load average before: ` +
    `${machine.load.join(', ')}.${noise([document])}${shared} ` +
    `${plan.rounds} rounds of ${plan.seconds} s a measurement (${plan.slowSeconds} s where replication is waited for), ${plan.sizeBytes / 2 ** 20} MiB a device; ` +
    `${Object.values(machine.versions).join(', ')}; ${machine.time.slice(0, 10)}, commit ${machine.commit}. ${honesty(parts)}`
  )
}

/** All figures with what is asked of them. */
export function figureTable({ parts }) {
  const rows = parts.flatMap(part => part.figures).filter(({ state }) => state !== 'absent')
  return [
    '| | figure | load | found: median (min to max) | asked | against |',
    '|---|---|---|---|---|---|',
    ...rows.map(figure => {
      const { text, load, value, against, state, voids } = figure
      const found = value === null ? `void: ${voids[0]}` : range(value, units[figure.unit])
      return `| ${marks[state]} | ${text} | ${load} | ${found} | ${wanted(figure)} | ${against ?? ''} |`
    }),
  ].join('\n')
}

/** Each load and peer with its rate and its spread, and medians of p50, p99 and CPU of a request. */
export function rateTables({ parts }) {
  return parts.map(part => `### ${part.title}\n\n${rateTable(part)}`).join('\n\n')
}

function rateTable({ peers, loads, samples }) {
  const lines = [`| | ${peers.join(' | ')} |`, `|---|${peers.map(() => '---').join('|')}|`]
  for (const load of loads) {
    const entry = name => {
      const own = samples[load.name][name] ?? []
      const of = (measure, percent) =>
        spread(
          own.map(one => (one.void ? null : (one[measure] ?? null))),
          percent,
        )
      const show = (measure, unit, label, percent) => {
        const found = of(measure, percent)
        return found === null ? [] : [`${units[unit](found.median)}${label}`]
      }
      const rate = of('rate')
      if (own.length > 0 && own.every(one => one.void)) return `void: ${own[0].void}`
      return [
        ...(rate === null ? [] : [range(rate, units[load.unit])]),
        ...show('p50Us', 'us', ' p50'),
        ...show('p99Us', 'us', ' p99'),
        ...show('flushP50Us', 'us', ' a flush'),
        ...show('cpuUs', 'us', ' CPU'),
        ...(load.measures ?? []).flatMap(({ measure, unit, title, percent }) =>
          show(measure, unit, ` ${title.trim()}`, percent),
        ),
      ].join('<br>')
    }
    lines.push(`| ${load.name} | ${peers.map(entry).join(' | ')} |`)
  }
  return lines.join('\n')
}

/** The few lines that the README shows. `whole` is all of `documents` as one. */
export function summary(whole, documents = [whole]) {
  const figures = whole.parts.flatMap(part => part.figures).filter(({ state }) => state !== 'absent')
  const good = figures.filter(({ state }) => state === 'good').length
  const shown = figures.filter(figure => figure.headline)
  const { machine, plan } = documents.at(-1)
  const shared = documents.filter(({ plan }) => plan.shared).flatMap(({ parts }) => parts.map(({ name }) => name))
  const remarks = [
    `Measured on ${machineLine(machine)}, ${machine.time.slice(0, 10)}, commit ${machine.commit}${plan.quick ? ', with --quick' : ''}.${noise(documents)}`,
    ...(shared.length > 0
      ? [`The machine had much other work during ${shared.join(', ')}: rates there are worth little.`]
      : []),
    `${good} of ${figures.length} figures are reached; all of them, and what is missing: [docs/performance.md](docs/performance.md).`,
  ]
  return [
    ...shown.map(
      figure =>
        `- ${marks[figure.state]} ${figure.headline}: ${figure.value === null ? 'void' : cell({ ...figure.value, count: 1 }, units[figure.unit])} (asked: ${wanted(figure)})`,
    ),
    '',
    remarks.join(' '),
  ].join('\n')
}

const range = (value, show) => `${show(value.median)} (${show(value.min)} to ${show(value.max)})`
