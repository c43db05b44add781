/**
 * A power cut for the files of a host whose daemon ran with power-shim.c: after the process is dead, some of what was
 * not synced is taken back. What a journaling file system and a disk with a volatile cache may leave:
 *
 *   names      a prefix of the changes of names that no fsync of their directory has covered
 *   contents   of each unsynced change any sectors of 512 bytes: for each sector one of the contents it had since the
 *              last sync, whatever became of its neighbours; the same for sizes
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { randomUUID } from 'node:crypto'
import { dirname, join } from 'node:path'
import { execFileSync } from 'node:child_process'
import { ROOT } from './daemon.js'

const sectorBytes = 512
const headerBytes = 48
const kindWrite = 1

export interface PowerCutReport {
  /** Changes of names, and sectors, that were taken back. */
  names: number
  sectors: number
}

export class PowerHost {
  readonly #journal: string
  readonly #lie: string
  readonly #boot: string

  /** `root`: the host's disk; `journal`: a directory of our own, which may be elsewhere. Compiles the layer if need be. */
  constructor(
    readonly root: string,
    journal: string,
    private readonly library: string,
  ) {
    this.#journal = journal
    this.#lie = `${journal}.lie`
    this.#boot = `${journal}.boot`
    mkdirSync(journal, { recursive: true })
    writeFileSync(this.#boot, randomUUID())
  }

  /** For the daemon. */
  env(): NodeJS.ProcessEnv {
    return {
      LD_PRELOAD: this.library,
      POWER_SHIM_ROOT: this.root,
      POWER_SHIM_JOURNAL: this.#journal,
      POWER_SHIM_LIE: this.#lie,
      POWER_SHIM_BOOT: this.#boot,
    }
  }

  /** From now on a sync does nothing and says that it has: what a build without fdatasync would be. */
  lie(): void {
    closeSync(openSync(this.#lie, 'w'))
  }

  /** Only while no process writes there. */
  cut(random: () => number): PowerCutReport {
    const names = this.#takeBackNames(random)
    const sectors = this.#takeBackContents(random)
    const links = join(this.root, '.power')
    for (const name of existsSync(links) ? readdirSync(links) : []) unlinkSync(join(links, name))
    for (const name of readdirSync(this.#journal)) unlinkSync(join(this.#journal, name))
    writeFileSync(this.#boot, randomUUID())
    return { names, sectors }
  }

  #takeBackNames(random: () => number): number {
    const changes = readdirSync(this.#journal).filter(name => name.endsWith('.op')).sort() // prettier-ignore
    const survivors = Math.floor(random() * (changes.length + 1))
    for (const change of changes.slice(survivors).reverse()) {
      const [kind = '', , path = '', second = '', kept = ''] = readFileSync(join(this.#journal, change), 'utf8').split(
        '\n',
      )
      if (kind === 'create') rmSync(path, { force: true })
      if (kind === 'rename' && existsSync(path)) renameSync(path, second)
      if (kind !== 'create' && kept !== '-') linkSync(kept, path)
    }
    return changes.length - survivors
  }

  #takeBackContents(random: () => number): number {
    const generations = new Map<string, number[]>()
    for (const name of readdirSync(this.#journal)) {
      const match = /^(\d+-\d+)\.(\d+)$/.exec(name)
      if (match?.[1] !== undefined) generations.set(match[1], [...(generations.get(match[1]) ?? []), Number(match[2])])
    }
    let sectors = 0
    for (const [file, numbers] of generations) {
      const path = join(this.root, '.power', file)
      if (!existsSync(path)) continue
      const journals = numbers.sort((a, b) => b - a).map(number => join(this.#journal, `${file}.${number}`))
      sectors += takeBackFile(path, journals, random)
    }
    return sectors
  }
}

interface Change {
  kind: number
  offset: number
  length: number
  sizeBefore: number
  kept: Buffer
}

/** Newest generation first. */
function takeBackFile(path: string, journals: string[], random: () => number): number {
  const changes = journals.flatMap(journal => readChanges(journal).reverse())
  // Of one cut everything may be lost of a file, or nothing, or something in between.
  const chance = [0, 1, random(), random()][Math.floor(random() * 4)] ?? 0
  const descriptor = openSync(path, 'r+')
  try {
    const size = sizeLeft(changes, () => random() < chance)
    if (size !== undefined) ftruncateSync(descriptor, size)
    return takeBackSectors(descriptor, changes, () => random() < chance, random() < 0.3)
  } finally {
    closeSync(descriptor)
  }
}

/** Newest change first. Undefined: as it is. */
function sizeLeft(changes: Change[], survives: () => boolean): number | undefined {
  let size: number | undefined
  for (const change of changes) {
    if (change.kind === kindWrite && change.offset + change.length <= change.sizeBefore) continue
    if (survives()) break
    size = change.sizeBefore
  }
  return size
}

/** Newest change first. `whole`: a change survives with all its sectors or not at all. */
function takeBackSectors(descriptor: number, changes: Change[], survives: () => boolean, whole: boolean): number {
  /** A later change of these sectors survived: it is what lies on the disk. */
  const decided = new Set<number>()
  let sectors = 0
  for (const change of changes) {
    if (change.kind !== kindWrite) continue
    const all = survives()
    const end = change.offset + change.length
    for (let at = change.offset; at < end;) {
      const sector = Math.floor(at / sectorBytes)
      const stop = Math.min(end, (sector + 1) * sectorBytes)
      if (!decided.has(sector)) {
        if (whole ? all : survives()) decided.add(sector)
        else {
          restore(descriptor, change, at, stop)
          sectors++
        }
      }
      at = stop
    }
  }
  return sectors
}

function restore(descriptor: number, change: Change, from: number, to: number): void {
  const bytes = Buffer.alloc(to - from)
  // What lay beyond the end of the file was nothing, and reads as zeroes.
  change.kept.subarray(from - change.offset, to - change.offset).copy(bytes)
  const length = Math.min(bytes.length, fstatSync(descriptor).size - from)
  if (length > 0) writeSync(descriptor, bytes, 0, length, from)
}

function readChanges(journal: string): Change[] {
  const data = readFileSync(journal)
  const changes: Change[] = []
  // The process may have died in the middle of the last entry: then it had not changed the file yet.
  for (let at = 0; at + headerBytes <= data.length;) {
    const [kind = 0, offset = 0, length = 0, sizeBefore = 0, kept = 0] = [8, 16, 24, 32, 40].map(field =>
      Number(data.readBigUInt64LE(at + field)),
    )
    if (at + headerBytes + kept > data.length) break
    changes.push({ kind, offset, length, sizeBefore, kept: data.subarray(at + headerBytes, at + headerBytes + kept) })
    at += headerBytes + kept
  }
  return changes
}

/** dist-test/power-shim.so, built when it is older than its source. */
export function powerLibrary(): string {
  const source = join(ROOT, 'test/support/power-shim.c')
  const library = join(ROOT, 'dist-test/power-shim.so')
  const made = (path: string): number => (existsSync(path) ? statSync(path).mtimeMs : 0)
  if (made(library) < made(source)) {
    mkdirSync(dirname(library), { recursive: true })
    const scratch = `${library}.${process.pid}`
    execFileSync('gcc', ['-shared', '-fPIC', '-O2', '-o', scratch, source, '-ldl', '-pthread'])
    renameSync(scratch, library)
  }
  return library
}
