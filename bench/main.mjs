#!/usr/bin/env node
// Measures this program beside its peers, in one run, and judges what is asked of it. --help says what the options are.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parts as known } from './figures.mjs'
import { chart } from './lib/chart.mjs'
import { describe, machine } from './lib/machine.mjs'
import { help, understood } from './lib/options.mjs'
import { rendered } from './lib/pages.mjs'
import { peersOf, roundsOf, secondsOfAll } from './lib/plan.mjs'
import { allGood, figureLines, honesty, judged, rateTable } from './lib/report.mjs'
import { measurePart } from './lib/rounds.mjs'
import { chosen } from './lib/selection.mjs'
import { units } from './lib/text.mjs'
import { peers } from './peers/all.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const published = 'bench/results/published.json'

try {
  // A peer that has failed to start may have left programs behind: they end with this one.
  process.exit(await main(process.argv.slice(2)))
} catch (error) {
  console.error(`bench: ${error.message}`)
  process.exit(1)
}

async function main(args) {
  const asked = understood(args)
  if (asked.help) return (console.log(help(known, peers)), 0)
  const { options, paths, plan } = asked
  const parts = asked.wrong === undefined ? chosen(known, plan, options.only?.split(',')) : null
  if (parts === null) {
    const why = asked.wrong ?? `--only ${options.only}: not all of these are parts or peers`
    return (console.error(`bench: ${why}; npm run bench -- --help tells more`), 2)
  }
  if (options.render) return renderPages(paths)
  if (spawnSync(join(root, 'scripts/setup'), ['--bench'], { stdio: 'inherit' }).status !== 0) return 1
  return await measure(options, parts, plan)
}

async function measure(options, parts, plan) {
  const facts = machine(options.scratch, options.disk)
  for (const line of describe(facts)) console.log(line)
  console.log(
    `${plan.rounds} rounds of ${plan.seconds} s, ${plan.slowSeconds} s where replication is waited for; ` +
      `${plan.sizeBytes / 2 ** 20} MiB a device; about ${Math.ceil(secondsOfAll(parts, plan) / 60)} minutes`,
  )
  const path = options.json ?? join(root, `bench/results/${facts.time.replaceAll(':', '')}.json`)
  const folders = {
    memory: mkdtempSync(join(options.scratch, 'us-bench-')),
    disk: mkdtempSync(join(options.disk, 'us-bench-')),
  }
  process.on('exit', () => Object.values(folders).forEach(folder => rmSync(folder, { recursive: true, force: true })))
  const found = []
  for (const part of parts) {
    const samples = await measurePart(part, { ...plan, folders }, progress(part, plan))
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
    found.push(judged(part, samples))
    console.log(`\n${part.title}\n${rateTable(found.at(-1))}`)
    write({ machine: facts, plan, parts: found }, path) // what has been measured is kept if a later part is interrupted
  }
  console.log(`\n${figureLines(found).join('\n')}\n\n${honesty(found)}`)
  console.log(`\nwritten: ${path}\n         ${pictureOf(path)}`)
  console.log(`npm run bench -- --render ${path} puts it into README.md and docs/performance.md`)
  return allGood(found) ? 0 : 1
}

/** One line that changes on a terminal, a line a measurement elsewhere. */
function progress(part, plan) {
  const total = roundsOf(part, plan) * part.loads.reduce((sum, load) => sum + peersOf(part, load).length, 0)
  let done = 0
  return (round, load, name, sample) => {
    const shown = sample.void ? `void: ${sample.void}` : sample.rate === undefined ? '' : units[load.unit](sample.rate)
    const text = `${part.name} ${++done}/${total}  round ${round + 1}  ${load.name}  ${name}  ${shown}`
    process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${text.slice(0, process.stderr.columns - 1)}` : `${text}\n`)
  }
}

function pictureOf(path) {
  return path.replace(/(\.json)?$/, '.svg')
}

function write(document, path) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, JSON.stringify(document, null, 1) + '\n')
  writeFileSync(pictureOf(path), chart(document))
}

/** Results, into the pages of the project; `paths`: none means again what is there. */
function renderPages(paths) {
  const read = path => JSON.parse(readFileSync(path, 'utf8'))
  const documents = paths.length > 0 ? paths.map(read) : read(join(root, published))
  const { pages, picture, kept } = rendered(documents, path => readFileSync(join(root, path), 'utf8'))
  const all = { ...pages, 'docs/performance.svg': picture, [published]: kept }
  for (const [path, text] of Object.entries(all)) writeFileSync(join(root, path), text)
  console.log(`written: ${Object.keys(all).join(', ')}`)
  return 0
}
