/**
 * Rules for files under real kernels: a user-mode-linux guest works on an ext4 that a master serves, and what its standby
 * shows is looked at again and again, while the link is cut and daemons are killed. Each time the copy
 *
 * - needs nothing but its journal to be replayed (e2fsck), as the master's content at the same cut, which is known (tap.ts);
 * - is mounted read-only by a second guest beside that, and has the same files: names, sizes, attributes, and content but
 *   for what may be left out, which is zeroes or its own (test/guest/same-files.py).
 *
 *   npm run filter-guests -- [--runs N] [--seconds S] [--seed N] [--policy exclude|only|none] [--layout TEXT]
 *                            [--kinds KIND,KIND] [--faults look,link,standby,master] [--keep] [--spoil]
 *
 * --keep: scratch files stay. --spoil: in each copy one KiB of a chosen file is emptied, which must be found.
 * A seed repeats the choices, not the interleaving. Exit codes: 0 all is well, 1 something was wrong (each is a line that
 * begins with WRONG), 2 wrong usage.
 */
import { parseArgs } from 'node:util'
import { type Owner } from '../support/daemon.js'
import { seededRandom } from '../support/history.js'
import { layouts } from './layouts.js'
import { allFaults, allKinds, type Fault, type Policy, policies, Run } from './run.js'

const { values: options } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '25' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    policy: { type: 'string', default: '' },
    layout: { type: 'string', default: '' },
    kinds: { type: 'string', default: '' },
    faults: { type: 'string', default: '' },
    spoil: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  },
})

async function main(): Promise<number> {
  const [runs, seconds, seed] = [options.runs, options.seconds, options.seed].map(Number) as [number, number, number]
  const chosen = layouts.filter(layout => layout.title.includes(options.layout))
  const wanted = Object.keys(policies).filter(policy => options.policy === '' || policy === options.policy) as Policy[]
  const faults = options.faults.split(',').filter(word => word !== '')
  const unknown = faults.some(fault => !(allFaults as string[]).includes(fault))
  if (!(runs > 0) || !(seconds > 0) || !Number.isInteger(seed) || !chosen.length || !wanted.length || unknown) {
    process.stderr.write('usage: see the head of test/filter-guests/main.ts\n')
    return 2
  }
  if (options.keep) process.env['UNDERSTUDY_KEEP'] = '1'
  let wrong = 0
  for (let number = 0; number < runs; number++) {
    const runSeed = seed + number
    const random = seededRandom(runSeed)
    const pick = <T>(all: T[]): T => all[Math.floor(random() * all.length)]!
    const layout = pick(chosen)
    const policy = options.policy === '' ? pick<Policy>(['exclude', 'only']) : pick(wanted)
    // Bytes are counted where nothing is sent twice: every third run is only looked at.
    const deck = faults.length > 0 ? (faults as Fault[]) : runSeed % 3 === 0 ? (['look'] as Fault[]) : allFaults
    // Not all at once: a guest has one processor, and each kind should come to something.
    const kinds = options.kinds === '' ? some(allKinds, 5, random) : options.kinds.split(',')
    const run = {
      layout,
      policy,
      seconds,
      seed: runSeed,
      kinds,
      faults: deck,
      random,
      spoil: options.spoil,
    }
    process.stdout.write(
      `run ${number + 1} of ${runs}: --seed ${runSeed}: ${policy}, ${layout.title}; ${kinds.join(' ')}; ${deck.join(' ')}\n`,
    )
    wrong += await owned(owner => new Run(owner, run).toItsEnd())
  }
  process.stdout.write(`filter-guests: seed ${seed}: ${runs} runs, ${wrong} wrong\n`)
  return wrong === 0 ? 0 : 1
}

function some<T>(all: T[], count: number, random: () => number): T[] {
  const left = [...all]
  return Array.from({ length: count }, () => left.splice(Math.floor(random() * left.length), 1)).flat()
}

/** What a run began ends with it. */
async function owned(run: (owner: Owner) => Promise<number>): Promise<number> {
  const endings: (() => unknown)[] = []
  let passing = true
  const owner: Owner = {
    teardown: ending => void endings.unshift(ending),
    passing: () => passing && !options.keep,
    comment: (...text) => void process.stdout.write(`${text.join(' ')}\n`),
  }
  let wrong = 1
  try {
    wrong = await run(owner)
  } catch (error) {
    process.stdout.write(`WRONG ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
  }
  passing = wrong === 0
  for (const ending of endings) await ending()
  return wrong
}

process.exit(await main())
