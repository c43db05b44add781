// Writes a result into the pages that show it: between the two lines `<!-- bench: NAME -->` and `<!-- /bench -->`.
import { cell, units, wanted } from './text.mjs'
import { spread } from './statistics.mjs'

const marks = { good: '🟢', missed: '🔴', void: '🔴 void' }

/** `text` with what stands between the lines replaced; an error when they are not there. */
export function replaced(text, name, content) {
  const pattern = new RegExp(`(<!-- bench: ${name} -->\n)[^]*?(<!-- /bench -->)`)
  if (!pattern.test(text))
    throw new Error(`there is no place for '${name}': <!-- bench: ${name} --> ... <!-- /bench -->`)
  return text.replace(pattern, (_, before, after) => `${before}${content}\n${after}`)
}

/** Several results as one: a part that is in more than one of them is taken from the last. */
export function merged(documents) {
  const parts = new Map(documents.flatMap(({ parts }) => parts.map(part => [part.name, part])))
  return { ...documents[0], parts: [...parts.values()] }
}

/** Where and how it was measured: without it a figure means nothing. */
export function conditions({ machine, plan, parts }) {
  const { processor, cores, memoryGiB, kernel, load, versions } = machine
  const others = spread(
    parts.flatMap(({ samples }) =>
      Object.values(samples)
        .flatMap(Object.values)
        .flat()
        .map(one => one.others ?? null),
    ),
  )
  const noise =
    others === null ? '' : ` Other work had ${units.percent(others.median * 100)} of the processors (median).`
  const shared = plan.shared ? ' **The machine was shared with other work: only ratios within a round count.**' : ''
  return (
    `Parts ${parts.map(({ name }) => name).join(', ')}: ${processor}, ${cores} cores, ${memoryGiB} GiB, Linux ${kernel}; load average before: ${load.join(', ')}.${noise}${shared} ` +
    `${plan.rounds} rounds of ${plan.seconds} s a measurement (${plan.slowSeconds} s where replication is waited for), ${plan.sizeBytes / 2 ** 20} MiB a device; ` +
    `${Object.values(versions).join(', ')}; ${machine.time.slice(0, 10)}, commit ${machine.commit}.`
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

/** Each load and peer with its rate, p50, p99 and CPU of a request. */
export function rateTables({ parts }) {
  return parts.map(part => `### ${part.title}\n\n${rateTable(part)}`).join('\n\n')
}

function rateTable({ peers, loads, samples }) {
  const lines = [`| | ${peers.join(' | ')} |`, `|---|${peers.map(() => '---').join('|')}|`]
  for (const load of loads) {
    const entry = name => {
      const of = measure =>
        spread((samples[load.name][name] ?? []).map(one => (one.void ? null : (one[measure] ?? null))))?.median ?? null
      const show = (measure, unit, label) => (of(measure) === null ? [] : [`${units[unit](of(measure))}${label}`])
      return [
        ...show('rate', load.unit, ''),
        ...show('p50Us', 'us', ' p50'),
        ...show('p99Us', 'us', ' p99'),
        ...show('flushP50Us', 'us', ' a flush'),
        ...show('cpuUs', 'us', ' CPU'),
        ...(load.measures ?? []).flatMap(({ measure, unit, title }) => show(measure, unit, ` ${title.trim()}`)),
      ].join('<br>')
    }
    lines.push(`| ${load.name} | ${peers.map(entry).join(' | ')} |`)
  }
  return lines.join('\n')
}

/** The few lines that the README shows. */
export function summary(document) {
  const figures = document.parts.flatMap(part => part.figures).filter(({ state }) => state !== 'absent')
  const good = figures.filter(({ state }) => state === 'good').length
  const shown = figures.filter(figure => figure.headline)
  return [
    ...shown.map(
      figure =>
        `- ${marks[figure.state]} ${figure.headline}: ${figure.value === null ? 'void' : cell({ ...figure.value, count: 1 }, units[figure.unit])} (asked: ${wanted(figure)})`,
    ),
    '',
    ...(document.plan.shared
      ? ['The machine had much other work: rates at depth 1 above all are worth little.', '']
      : []),
    `${good} of ${figures.length} figures are reached; all of them, with the machine and what is missing: [docs/performance.md](docs/performance.md).`,
  ].join('\n')
}

const range = (value, show) => `${show(value.median)} (${show(value.min)} to ${show(value.max)})`
