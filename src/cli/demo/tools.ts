/** The programs that the demo borrows, and how they are run. None needs root. */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

import { OperationError } from '../../core/errors.js'

/** Program and the Debian package that has it. */
const PACKAGES: Record<string, string> = {
  mke2fs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  debugfs: 'e2fsprogs',
  nbdcopy: 'libnbd-bin',
}

/** Debian keeps mke2fs where an ordinary user's PATH does not look. */
const SEARCH = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin'].filter(
  folder => folder !== '',
)

export function requireTools(): void {
  const missing = Object.entries(PACKAGES).filter(([program]) => find(program) === undefined)
  if (missing.length === 0) return
  const programs = missing.map(([program, name]) => `${program} (package ${name})`).join(', ')
  const names = [...new Set(missing.map(([, name]) => name))].join(' ')
  throw new OperationError('NO_TOOL', `demo: missing: ${programs}; install with: apt-get install ${names}`)
}

function find(program: string): string | undefined {
  return SEARCH.map(folder => join(folder, program)).find(path => {
    try {
      accessSync(path, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

interface RunOptions {
  /** Called with each line that the program writes to descriptor 3. */
  onProgress?: (line: string) => void
  signal: AbortSignal
  /** Exit codes that are no failure. */
  allowed?: readonly number[]
}

/** Runs a program to its end; returns what it printed. A failure names the program and quotes its last lines. */
export function run(program: string, args: string[], options: RunOptions): Promise<{ code: number; output: string }> {
  const path = find(program) ?? program
  return new Promise((resolve, reject) => {
    const child = spawn(path, args, {
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      signal: options.signal,
      env: { ...process.env, LC_ALL: 'C' },
    })
    const output: Buffer[] = []
    child.stdout?.on('data', (chunk: Buffer) => output.push(chunk))
    child.stderr?.on('data', (chunk: Buffer) => output.push(chunk))
    let partial = ''
    child.stdio[3]?.on('data', (chunk: Buffer) => {
      const lines = (partial + chunk.toString()).split('\n')
      partial = lines.pop() ?? ''
      for (const line of lines) options.onProgress?.(line)
    })
    child.once('error', error => reject(new OperationError('TOOL', `${program}: ${error.message}`, { cause: error })))
    child.once('close', (code, signal) => {
      const text = Buffer.concat(output).toString()
      if (code !== null && (code === 0 || options.allowed?.includes(code) === true))
        return resolve({ code, output: text })
      const ending = code === null ? `ended by ${signal}` : `exit code ${code}`
      reject(
        new OperationError(
          'TOOL',
          `${program} ${args.join(' ')}: ${ending}: ${text.trim().split('\n').slice(-8).join(' | ')}`,
        ),
      )
    })
  })
}
