// The command line of the benchmark: what it may say, what it means, and the help.
import { parseArgs } from 'node:util'

const flags = {
  quick: { type: 'boolean', default: false },
  only: { type: 'string' },
  rounds: { type: 'string' },
  seconds: { type: 'string' },
  size: { type: 'string' },
  scratch: { type: 'string', default: '/dev/shm' },
  disk: { type: 'string', default: '/var/tmp' },
  json: { type: 'string' },
  shared: { type: 'boolean', default: false },
  render: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
}
const MiB = 2 ** 20

/**
 * { help: true }; { wrong: 'one line' }; or { options, paths, plan }: `plan` is how much is measured (lib/plan.mjs), `paths` are
 * the results to render.
 */
export function understood(args) {
  let parsed
  try {
    parsed = parseArgs({ args, options: flags, allowPositionals: true })
  } catch (error) {
    // Node explains at length; its first sentence is what matters.
    return { wrong: error.message.split(/[.\n](?:\s|$)/)[0] }
  }
  const { values: options, positionals: paths } = parsed
  if (options.help) return { help: true }
  if (paths.length > 0 && !options.render) return { wrong: `Unexpected argument '${paths[0]}'` }
  for (const name of ['rounds', 'seconds', 'size'])
    if (options[name] !== undefined && !(Number(options[name]) > 0))
      return { wrong: `Option '--${name}' takes a number above 0, not '${options[name]}'` }
  return { options, paths, plan: planOf(options) }
}

function planOf({ quick, shared, rounds, seconds, size }) {
  return {
    quick,
    shared,
    rounds: Number(rounds ?? (quick ? 3 : 5)),
    isRoundsAsked: rounds !== undefined,
    seconds: Number(seconds ?? (quick ? 0.5 : 4)),
    slowSeconds: Number(seconds ?? (quick ? 1.2 : 30)),
    sizeBytes: Number(size ?? (quick ? 128 : 512) * MiB),
  }
}

/** `parts` as in figures.mjs, `peers` as in peers/all.mjs. */
export function help(parts, peers) {
  const width = Math.max(...Object.keys(peers).map(name => name.length))
  return `Measures this program beside its peers, in one run, and judges what is asked of it.

  npm run bench                           all of it: several hours on a quiet machine
  npm run bench -- --quick                under 3 minutes: short rounds, only what is judged, without DRBD's guest
  npm run bench -- --only replicated      one part
  npm run bench -- --only nbdkit,alone    some peers, in all parts that have them
  npm run bench -- --render FILE...       puts results into README.md and docs/performance.md; without FILE, again those
                                          that are there (bench/results/published.json)

What it needs is prepared first (scripts/setup --bench), which says what it installs. Prints a line a measurement, a table a
part and the figures with what is asked of each; writes all samples as JSON, and a chart as SVG beside it.

  --quick          3 rounds of 0.5 s instead of 5 of 4 s; 1.2 s instead of 30 where a standby has to follow
  --only NAMES     parts and peers, see below, with commas between them
  --rounds N       each peer is measured N times, in turns: A B C, A B C, ...
  --seconds N      of each measurement
  --size BYTES     of each device: 512 MiB, 128 MiB with --quick
  --scratch DIR    where devices in memory are: /dev/shm
  --disk DIR       where devices on a disk are: /var/tmp
  --json FILE      the result: bench/results/TIME.json
  --shared         notes in the result that the machine had other work: only its ratios count then

Exit code: 0 when every figure is reached, 1 when one is missed or void or the run has failed, 2 when the command is wrong.
UNDERSTUDY_QUIC_PROTOTYPE=PROGRAM: another QUIC program beside the link (peers/link.mjs).

Parts: their peers
${parts.map(part => `  ${part.name}: ${part.title}\n    ${part.peers.join(', ')}`).join('\n')}

Peers
${Object.entries(peers)
  .map(([name, { what }]) => `  ${name.padEnd(width)}  ${what}`)
  .join('\n')}

How it is measured: bench/README.md. What was found: docs/performance.md.`
}
