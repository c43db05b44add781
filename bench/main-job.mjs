#!/usr/bin/env node
// The main job against its peers, in one run. README.md beside this file says what is measured and what the options are.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { fill, fio, loads } from './lib/fio.mjs'
import { describe, machine } from './lib/machine.mjs'
import { cell, rate, ratios, render, spread } from './lib/table.mjs'
import { startMirror } from './peers/mirror.mjs'
import { startNbdkit } from './peers/nbdkit.mjs'
import { startAlone, startReplicated } from './peers/understudy.mjs'

const starters = { nbdkit: startNbdkit, alone: startAlone, replicated: startReplicated, mirror: startMirror }

/** At 4 KiB, depth 32. */
const thresholds = [
  { peer: 'alone', of: 'nbdkit', atLeast: 0.8 },
  { peer: 'replicated', of: 'mirror', atLeast: 1.0 },
]

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    size: { type: 'string' },
    scratch: { type: 'string', default: '/dev/shm' },
    only: { type: 'string' },
    json: { type: 'string' },
  },
})

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`bench: ${error.message}`)
  process.exitCode = 1
}

async function main() {
  const plan = {
    rounds: Number(options.rounds ?? (options.quick ? 3 : 5)),
    seconds: Number(options.seconds ?? (options.quick ? 1 : 4)),
    sizeBytes: Number(options.size ?? (options.quick ? 256 : 1024) * 2 ** 20),
    peers: options.only?.split(',') ?? Object.keys(starters),
  }
  const unknown = plan.peers.filter(name => !(name in starters))
  if (unknown.length > 0 || !(plan.rounds > 0) || !(plan.seconds > 0) || !(plan.sizeBytes > 0)) {
    console.error(
      `bench: --only takes ${Object.keys(starters).join(', ')}; --rounds, --seconds and --size take numbers`,
    )
    return 2
  }
  const facts = machine(options.scratch)
  for (const line of describe(facts)) console.log(line)
  console.log(`${plan.rounds} rounds, ${plan.seconds} s each, ${plan.sizeBytes / 2 ** 20} MiB a device\n`)

  const folder = mkdtempSync(join(options.scratch, 'us-bench-'))
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  const peers = {}
  let samples
  try {
    for (const name of plan.peers) {
      peers[name] = await starters[name](folder, plan.sizeBytes)
      await fill(peers[name].uri, plan.sizeBytes)
      await peers[name].settled()
    }
    samples = await measure(peers, plan)
  } finally {
    for (const peer of Object.values(peers)) await peer.stop()
  }
  return report(facts, plan, samples)
}

/** samples[load][peer] = one entry a round; rate null: void. */
async function measure(peers, plan) {
  const samples = loads.map(() => Object.fromEntries(plan.peers.map(name => [name, []])))
  for (let round = 0; round < plan.rounds; round++) {
    for (const [index, load] of loads.entries()) {
      for (const name of plan.peers) {
        const sample = await measureOne(peers[name], load, plan)
        samples[index][name].push(sample)
        const shown = sample.rate === null ? 'void (detached)' : rate(sample.rate, load.unit)
        console.error(`round ${round + 1}  ${load.name.padEnd(26)} ${name.padEnd(11)} ${shown}`)
      }
    }
  }
  return samples
}

async function measureOne(peer, load, plan) {
  const before = await peer.settled()
  const found = await fio(peer.uri, load, plan.sizeBytes, plan.seconds)
  const after = await peer.settled()
  const amount = load.unit === 'iops' ? found.operations : found.bytes
  // Until applied = written, never less than what the client itself needed.
  const seconds = after === null ? found.seconds : Math.max(found.seconds, (after.atMs - found.beganMs) / 1000)
  const isVoid = after !== null && after.detaches !== before.detaches
  return {
    rate: isVoid ? null : amount / seconds,
    clientRate: amount / found.seconds,
    seconds,
    p50us: found.p50us,
    p99us: found.p99us,
  }
}

function report(facts, plan, samples) {
  const rates = (load, name) => samples[load][name].map(sample => sample.rate)
  const rows = [['', ...plan.peers]]
  for (const [index, load] of loads.entries()) {
    rows.push([load.name, ...plan.peers.map(name => cell(spread(rates(index, name)), value => rate(value, load.unit)))])
    const p99 = name => spread(samples[index][name].map(sample => sample.p99us))
    rows.push(['  p99 of a write', ...plan.peers.map(name => cell(p99(name), value => `${value.toFixed(0)} us`))])
  }
  console.log(`\n${render(rows)}\n`)

  const verdicts = []
  for (const { peer, of, atLeast } of thresholds) {
    if (!plan.peers.includes(peer) || !plan.peers.includes(of)) continue
    for (const [index, load] of loads.entries()) {
      const found = ratios(rates(index, peer), rates(index, of))
      const counts = index === 0
      const voided = rates(index, peer).includes(null)
      const good = !counts || (found !== null && !voided && found.median >= atLeast)
      verdicts.push({ load: load.name, peer, of, ratio: found, atLeast: counts ? atLeast : null, voided, good })
    }
  }
  const word = verdict =>
    verdict.atLeast === null ? '' : `at least ${verdict.atLeast.toFixed(1)}: ${verdict.good ? 'yes' : 'NO'}`
  const lines = verdicts.map(one => [
    `${one.peer} / ${one.of}`,
    one.load,
    cell(one.ratio, value => value.toFixed(2)),
    word(one),
  ])
  if (lines.length > 0) console.log(render([['ratio', 'load', 'median [min..max]', 'wanted'], ...lines]))

  const path =
    options.json ?? fileURLToPath(new URL(`results/main-job-${facts.time.replaceAll(':', '')}.json`, import.meta.url))
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, JSON.stringify({ machine: facts, plan, loads, samples, verdicts }, null, 1) + '\n')
  console.log(`\nwritten: ${path}`)
  return verdicts.every(verdict => verdict.good) ? 0 : 1
}
