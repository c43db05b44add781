// DRBD, and this program beside it, in one user-mode-linux guest (guest/drbd.sh): all of them are measured in a run of the
// guest, which is a round.
import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { run } from '../lib/processes.mjs'

const at = path => fileURLToPath(new URL(`../../${path}`, import.meta.url))
const limitSeconds = 400
const rounds = new Map() // round -> what its guest has found

export const startGuest =
  name =>
  async ({ folder }) => ({
    processes: {},
    settled: async () => null,
    async measure(load, seconds, round) {
      if (!rounds.has(round)) rounds.set(round, runGuest(join(folder, 'guest'), seconds))
      const text = await rounds.get(round)
      const [, rate, p50Us, p99Us] =
        new RegExp(`^GUEST: figure ${name} ${load.depth} (\\S+) (\\S+) (\\S+)`, 'm').exec(text) ?? []
      if (rate === undefined) throw new Error(`the guest has not measured ${name}:\n${text.slice(-2000)}`)
      return { rate: Number(rate), p50Us: Number(p50Us), p99Us: Number(p99Us), tail: p99Us / p50Us }
    },
    stop: async () => undefined,
  })

/** Needs room for the guest's memory in the folder, which must allow execution. */
async function runGuest(folder, seconds) {
  mkdirSync(folder, { recursive: true })
  const shim = join(folder, 'xstate-ptrace.so')
  spawnSync('cc', ['-O2', '-shared', '-fPIC', '-o', shim, at('test/guest/xstate-ptrace.c'), '-ldl'])
  const kernel = [
    'mem=1024M',
    'root=/dev/root',
    'rootfstype=hostfs',
    'ro',
    'quiet',
    `init=${at('bench/guest/drbd.sh')}`,
  ]
  const console = ['con=null', 'con0=null,fd:1', `uml_dir=${folder}`, 'umid=drbd']
  const ours = [
    `tests=${at('test/guest')}`,
    `seconds=${seconds}`,
    `main=${at('dist/cli/main.js')}`,
    `node=${process.execPath}`,
  ]
  return run(
    'env',
    [`LD_PRELOAD=${shim}`, `TMPDIR=${folder}`, 'linux.uml', ...kernel, ...console, ...ours],
    limitSeconds,
  )
}
