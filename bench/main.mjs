#!/usr/bin/env node
// Measures this program beside its peers, in one run, and judges what is asked of it. README.md says what the options are.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { parts as known } from './figures.mjs'
import { chart } from './lib/chart.mjs'
import { describe, machine } from './lib/machine.mjs'
import { conditions, figureTable, merged, rateTables, replaced, summary } from './lib/pages.mjs'
import { allGood, figureLines, judged, rateTable } from './lib/report.mjs'
import { measurePart } from './lib/rounds.mjs'
import { chosen } from './lib/selection.mjs'
import { units } from './lib/text.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))

const { values: options, positionals } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    size: { type: 'string' },
    scratch: { type: 'string', default: '/dev/shm' },
    disk: { type: 'string', default: '/var/tmp' },
    only: { type: 'string' },
    json: { type: 'string' },
    shared: { type: 'boolean', default: false },
    render: { type: 'boolean', default: false },
  },
  allowPositionals: true,
})

try {
  // A peer that has failed to start may have left programs behind: they end with this one.
  process.exit(options.render ? renderPages(positionals) : await main())
} catch (error) {
  console.error(`bench: ${error.message}`)
  process.exit(1)
}

async function main() {
  const number = (text, otherwise) => Number(text ?? otherwise)
  const plan = {
    quick: options.quick,
    shared: options.shared,
    rounds: number(options.rounds, options.quick ? 3 : 5),
    seconds: number(options.seconds, options.quick ? 0.5 : 4),
    slowSeconds: number(options.seconds, options.quick ? 1.5 : 30),
    sizeBytes: number(options.size, (options.quick ? 128 : 512) * 2 ** 20),
  }
  const parts = chosen(known, plan, options.only?.split(','))
  if (parts === null || ![plan.rounds, plan.seconds, plan.sizeBytes].every(value => value > 0)) {
    const names = [...new Set(known.flatMap(part => [part.name, ...part.peers]))]
    console.error(
      `bench: --only takes names of parts and peers: ${names.join(', ')}; --rounds, --seconds and --size take numbers`,
    )
    return 2
  }
  const facts = machine(options.scratch, options.disk)
  for (const line of describe(facts)) console.log(line)
  console.log(
    `${plan.rounds} rounds of ${plan.seconds} s, ${plan.slowSeconds} s where replication is waited for; ${plan.sizeBytes / 2 ** 20} MiB a device`,
  )
  const found = await measureAll(parts, plan)
  console.log(`\n${figureLines(found).join('\n')}`)
  const path = options.json ?? join(root, `bench/results/${facts.time.replaceAll(':', '')}.json`)
  write({ machine: facts, plan, parts: found }, path)
  return allGood(found) ? 0 : 1
}

async function measureAll(parts, plan) {
  const folders = {
    memory: mkdtempSync(join(options.scratch, 'us-bench-')),
    disk: mkdtempSync(join(options.disk, 'us-bench-')),
  }
  process.on('exit', () => Object.values(folders).forEach(folder => rmSync(folder, { recursive: true, force: true })))
  const found = []
  for (const part of parts) {
    const seconds = part.slow ? plan.slowSeconds : plan.seconds
    const samples = await measurePart(part, { ...plan, seconds, folders }, progress(part, plan))
    clearProgress()
    found.push(judged(part, samples))
    console.log(`\n${part.title}\n${rateTable(found.at(-1))}`)
  }
  return found
}

/** One line that changes on a terminal, a line a measurement elsewhere. */
function progress(part, plan) {
  const total = plan.rounds * part.loads.length * part.peers.length
  let done = 0
  return (round, load, name, sample) => {
    const shown = sample.void ? `void: ${sample.void}` : sample.rate === undefined ? '' : units[load.unit](sample.rate)
    const text = `${part.name} ${++done}/${total}  round ${round + 1}  ${load.name}  ${name}  ${shown}`
    process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${text.slice(0, process.stderr.columns - 1)}` : `${text}\n`)
  }
}

function clearProgress() {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
}

function write(document, path) {
  const picture = path.replace(/(\.json)?$/, '.svg')
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, JSON.stringify(document, null, 1) + '\n')
  writeFileSync(picture, chart(document))
  console.log(
    `\nwritten: ${path}\n         ${picture}\nnpm run bench -- --render ${path} puts it into README.md and docs/performance.md`,
  )
}

/** Results, into the pages of the project. */
function renderPages(paths) {
  if (paths.length === 0) {
    console.error('bench: --render takes the JSON files of results')
    return 2
  }
  const documents = paths.map(path => JSON.parse(readFileSync(path, 'utf8')))
  const whole = merged(documents)
  const edit = (name, change) => writeFileSync(join(root, name), change(readFileSync(join(root, name), 'utf8')))
  edit('README.md', text => replaced(text, 'summary', summary(whole)))
  const pieces = {
    conditions: documents.map(conditions).join('\n\n'),
    figures: figureTable(whole),
    rates: rateTables(whole),
  }
  edit('docs/performance.md', text =>
    Object.entries(pieces).reduce((page, [name, content]) => replaced(page, name, content), text),
  )
  writeFileSync(join(root, 'docs/performance.svg'), chart(whole))
  console.log('written: README.md, docs/performance.md, docs/performance.svg')
  return 0
}
