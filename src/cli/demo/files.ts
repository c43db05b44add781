/** The files of the demo: real ones, gathered from this very program, with a hash of each. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { cp, mkdir, readdir, stat } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'

import { OperationError } from '../../core/errors.js'
import { ROOT } from '../../core/root.js'

export interface Manifest {
  /** Path below the root -> SHA-256. */
  hashes: Map<string, string>
  bytes: number
}

/** Copies this program, its sources and the Node executable below `folder`. */
export async function gatherFiles(folder: string): Promise<Manifest> {
  await mkdir(folder, { recursive: true })
  for (const name of ['dist', 'src', 'native', 'docs', 'node_modules/commander', 'node_modules/prom-client']) {
    // An installed package may lack some of these; what is there suffices.
    await cp(join(ROOT, name), join(folder, basename(name)), { recursive: true, dereference: true }).catch(
      ignoreMissing,
    )
  }
  await cp(process.execPath, join(folder, 'node'), { dereference: true })
  return manifestOf(folder)
}

function ignoreMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
}

export async function manifestOf(folder: string): Promise<Manifest> {
  const manifest: Manifest = { hashes: new Map(), bytes: 0 }
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath ?? entry.path, entry.name)
    manifest.hashes.set(relative(folder, path), await hashFile(path))
    manifest.bytes += (await stat(path)).size
  }
  return manifest
}

/** SHA-256 of a file, as hexadecimal digits. */
export async function hashFile(path: string, onBytes?: (bytes: number) => void, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  const stream = createReadStream(path, { highWaterMark: 1 << 20, ...(signal && { signal }) })
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    hash.update(chunk)
    onBytes?.(chunk.length)
  }
  return hash.digest('hex')
}

export function requireEqual(expected: Manifest, found: Manifest): void {
  for (const [path, hash] of expected.hashes) {
    const other = found.hashes.get(path)
    if (other === undefined)
      throw new OperationError('DIFFERENT', `demo: file ${path} is missing on the standby's copy`)
    if (other !== hash) throw new OperationError('DIFFERENT', `demo: file ${path} differs on the standby's copy`)
  }
  const extra = [...found.hashes.keys()].find(path => !expected.hashes.has(path))
  if (extra !== undefined)
    throw new OperationError('DIFFERENT', `demo: the standby's copy has a file that nobody wrote: ${extra}`)
}
