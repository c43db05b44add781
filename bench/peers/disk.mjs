// The disk itself: 4 KiB written somewhere into a file that is there already, then fdatasync, again and again. What any
// program has to wait for, without any program in between.
import { closeSync, fdatasyncSync, openSync, writeSync } from 'node:fs'
import { randomBytes, randomInt } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sparseFile } from '../lib/files.mjs'
import { run } from '../lib/processes.mjs'

const block = 4096

export async function startDisk({ folder, sizeBytes }) {
  const path = sparseFile(join(folder, 'disk', 'disk.img'), sizeBytes)
  const fd = openSync(path, 'w')
  const data = randomBytes(block)
  for (let at = 0; at < sizeBytes; at += block) writeSync(fd, data, 0, block, at) // in small pieces: see fill()
  fdatasyncSync(fd)
  closeSync(fd)
  return {
    processes: {},
    settled: async () => null,
    // In a process of its own: fdatasync would hold up everything else here.
    measure: async (_load, seconds) =>
      JSON.parse(
        await run(
          process.execPath,
          [fileURLToPath(import.meta.url), path, seconds, sizeBytes].map(String),
          seconds + 60,
        ),
      ),
    stop: async () => undefined,
  }
}

function probe(path, seconds, sizeBytes) {
  const fd = openSync(path, 'r+')
  const data = randomBytes(block)
  const took = []
  const begin = performance.now()
  while (performance.now() - begin < seconds * 1000) {
    writeSync(fd, data, 0, block, randomInt(sizeBytes / block) * block)
    const before = performance.now()
    fdatasyncSync(fd)
    took.push((performance.now() - before) * 1000)
  }
  const rate = (took.length * 1000) / (performance.now() - begin)
  took.sort((a, b) => a - b)
  const quantile = part => took[Math.min(took.length - 1, Math.floor(took.length * part))]
  return { rate, p50Us: quantile(0.5), p99Us: quantile(0.99), flushP50Us: quantile(0.5), flushP99Us: quantile(0.99) }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [path, seconds, sizeBytes] = process.argv.slice(2)
  console.log(JSON.stringify(probe(path, Number(seconds), Number(sizeBytes))))
}
