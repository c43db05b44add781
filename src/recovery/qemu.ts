/**
 * QEMU as a process. One of two kinds:
 *   bound    it ends with the daemon, however that ends (PR_SET_PDEATHSIG): its disks are views that end with it, too
 *   free     it outlives the daemon, and waits for the next one to serve its disks again (reconnect-delay)
 *
 * A free one is found again by its pid file, which QEMU itself writes and keeps locked: of two with one pid file the
 * second does not start. It is known by its command line, which names that file: a number alone may be somebody else's.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { accessSync, closeSync, constants, openSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

import { type Clock, sleep } from '../core/clock.js'
import { describe, OperationError } from '../core/errors.js'
import { OtherProcess } from '../core/other-process.js'
import { qemuProgram } from './command-line.js'

/** Debian's name of it. */
const qemuPackage = 'qemu-system-x86'
const pollMs = 500
const endMs = 10_000

export interface Exit {
  /** For people. */
  how: string
}

/** Throws when it is not installed. */
export function requireQemu(action: string, path = process.env['PATH'] ?? ''): void {
  if (path.split(delimiter).some(folder => folder !== '' && isExecutable(join(folder, qemuProgram)))) return
  throw new OperationError(
    'NO_QEMU',
    `${action}: ${qemuProgram} is not installed; it is in the package ${qemuPackage}: apt-get install --no-install-recommends ${qemuPackage}`,
  )
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

export class Qemu {
  readonly #process: OtherProcess
  readonly #child: ChildProcess | undefined
  #exit: Exit | undefined
  readonly exited: Promise<Exit>

  /**
   * What it prints on stdout (a serial console, if it is there) goes to `output`; the last it said on stderr explains
   * its end. `folder`: for what its guest writes; the files have no names.
   */
  static startBound(args: readonly string[], clock: Clock, folder: string, output: (chunk: Buffer) => void): Qemu {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', qemuProgram, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // Ctrl-C in a terminal is the daemon's.
      env: { ...process.env, TMPDIR: folder },
    })
    child.stdout.on('data', output)
    const complaint = new Complaint()
    child.stderr.on('data', (chunk: Buffer) => complaint.add(chunk.toString()))
    return new Qemu(child.pid ?? 0, clock, child, () => complaint.last)
  }

  /** `log`: a file for what it says. */
  static startFree(args: readonly string[], clock: Clock, log: string): Qemu {
    const descriptor = openSync(log, 'w', 0o600)
    try {
      const child = spawn(qemuProgram, args, { stdio: ['ignore', descriptor, descriptor], detached: true })
      child.unref()
      return new Qemu(child.pid ?? 0, clock, child, () => lastLineOf(log))
    } finally {
      closeSync(descriptor)
    }
  }

  /** One that runs already; undefined: none does. */
  static find(pidFile: string, clock: Clock): Qemu | undefined {
    const pid = runningPid(pidFile)
    return pid === undefined ? undefined : new Qemu(pid, clock)
  }

  private constructor(
    readonly pid: number,
    private readonly clock: Clock,
    child?: ChildProcess,
    private readonly complaint: () => string = () => '',
  ) {
    this.#process = new OtherProcess(pid)
    this.#child = child
    this.exited = (child === undefined ? this.#untilGone() : untilClosed(child)).then(how => {
      const said = this.complaint()
      return (this.#exit = { how: said === '' ? how : `${how}: ${said}` })
    })
  }

  get hasExited(): boolean {
    return this.#exit !== undefined
  }

  /** SIGKILL; resolves when it is gone. */
  async end(): Promise<void> {
    if (this.#exit !== undefined) return
    if (this.#child === undefined) await this.#process.end(this.clock, endMs)
    else this.#child.kill('SIGKILL')
    await this.exited
  }

  async #untilGone(): Promise<string> {
    while (!this.#process.isGone) await sleep(this.clock, pollMs)
    return 'it has ended'
  }
}

/** Of the process that holds this pid file; undefined: none does. */
function runningPid(pidFile: string): number | undefined {
  try {
    const pid = Number(readFileSync(pidFile, 'latin1').trim())
    if (!Number.isSafeInteger(pid) || pid <= 1) return undefined
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
    return command.split('\0').includes(pidFile) ? pid : undefined
  } catch {
    return undefined
  }
}

function untilClosed(child: ChildProcess): Promise<string> {
  return new Promise(resolve => {
    child.once('error', error => resolve(`it cannot be started (${describe(error)})`))
    child.once('close', (code, signal) =>
      resolve(signal === null ? `it ended with exit code ${code}` : `it was ended by ${signal}`),
    )
  })
}

/** The last line of what a process says. */
class Complaint {
  #text = ''

  add(text: string): void {
    this.#text = (this.#text + text).slice(-4096)
  }

  get last(): string {
    return lastLine(this.#text)
  }
}

function lastLineOf(path: string): string {
  try {
    return lastLine(readFileSync(path, 'utf8').slice(-4096))
  } catch {
    return ''
  }
}

const lastLine = (text: string): string => text.trimEnd().split('\n').at(-1)?.trim() ?? ''
