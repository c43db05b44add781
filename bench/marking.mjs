#!/usr/bin/env node
// What the dirty map on disk costs: a master that keeps it against one that cannot (its file's place is taken by a
// directory, so nothing is marked), in turns. 90 % of the writes go to 5 % of a volume of 16 GiB. The volume is in
// memory and the map on a disk, which is the worst case: marks are the only thing that waits for a disk.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { fio } from './lib/fio.mjs'
import { spread } from './lib/statistics.mjs'
import { cell } from './lib/text.mjs'
import { startAlone } from './peers/understudy.mjs'

const sizeBytes = 16 * 2 ** 30
const load = { block: 4096, depth: 32, unit: 'requests' }
const zones = ['--random_distribution=zoned:90/5:10/95']

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '7' },
    seconds: { type: 'string', default: '5' },
    disk: { type: 'string', default: '/var/tmp' },
    memory: { type: 'string', default: '/dev/shm' },
  },
})

const folders = [options.disk, options.memory].map(parent => mkdtempSync(join(parent, 'us-marking-')))
process.on('exit', () => folders.forEach(folder => rmSync(folder, { recursive: true, force: true })))
const [disk, memory] = folders

const without = join(disk, 'without')
mkdirSync(join(without, 'alone', 'volumes', 'bench.map', 'in-the-way'), { recursive: true })
const peers = {
  marked: await startAlone({ folder: join(disk, 'with'), sizeBytes, device: join(memory, 'with.img') }),
  unmarked: await startAlone({ folder: without, sizeBytes, device: join(memory, 'without.img') }),
}
const ratios = []
for (let round = 1; round <= Number(options.rounds); round++) {
  const rates = {}
  for (const name of round % 2 ? ['marked', 'unmarked'] : ['unmarked', 'marked']) {
    rates[name] = (await fio(peers[name].target, load, sizeBytes, Number(options.seconds), zones)).rate
  }
  ratios.push(rates.marked / rates.unmarked)
  console.log(
    `round ${round}: ${Math.round(rates.marked)} writes/s with the map, ${Math.round(rates.unmarked)} without`,
  )
}
for (const peer of Object.values(peers)) await peer.stop()
console.log(`with / without: ${cell(spread(ratios), ratio => ratio.toFixed(3))}`)
