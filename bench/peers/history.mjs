// Time travel inside a standby (history/): how long until a moment is open, by how far back it lies.
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { run } from '../lib/processes.mjs'

const program = fileURLToPath(new URL('../../build/bench/history', import.meta.url))

export async function startHistory({ folder }) {
  return {
    ...{ processes: {}, settled: async () => null, stop: async () => undefined },
    async measure() {
      const own = join(folder, 'history')
      mkdirSync(own, { recursive: true })
      try {
        return JSON.parse(await run(program, [own], 120))
      } finally {
        rmSync(own, { recursive: true })
      }
    },
  }
}
