/**
 * Another `understudy` process: a daemon, or a command that stays. Its log is kept so that a failure can quote it.
 * Ends with its owner: end() or kill(), and in any case when this process exits.
 */
import { type ChildProcess, spawn } from 'node:child_process'

import { OperationError } from '../../core/errors.js'
import { MAIN } from '../../core/root.js'

const LOG_LINES_MAX = 200

const alive = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of alive) child.kill('SIGKILL')
})

export class ChildProgram {
  private readonly log: string[] = []
  private readonly ended: Promise<void>
  private waiting: ((line: string) => void)[] = []

  private constructor(
    private readonly name: string,
    private readonly child: ChildProcess,
  ) {
    alive.add(child)
    child.stdout?.on('data', (chunk: Buffer) => this.received(chunk, true))
    child.stderr?.on('data', (chunk: Buffer) => this.received(chunk, false))
    this.ended = new Promise(resolve => {
      child.once('close', () => {
        alive.delete(child)
        resolve()
      })
    })
  }

  /** Starts `understudy ...args` and waits until it prints a line that matches, on stdout. */
  static async start(name: string, args: string[], ready: RegExp, limitMs = 20_000): Promise<ChildProgram> {
    const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    const program = new ChildProgram(name, child)
    await program.printed(ready, limitMs)
    return program
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  lastLines(): string[] {
    return this.log.slice(-20).map(line => `${this.name}: ${line}`)
  }

  /** SIGTERM, and SIGKILL when that takes longer than the limit. */
  async end(limitMs = 15_000): Promise<void> {
    if (!alive.has(this.child)) return
    this.child.kill('SIGTERM')
    this.child.kill('SIGCONT')
    const timer = setTimeout(() => this.child.kill('SIGKILL'), limitMs)
    await this.ended
    clearTimeout(timer)
  }

  /** SIGSTOP: it does nothing until it may go on. */
  hold(): void {
    this.child.kill('SIGSTOP')
  }

  goOn(): void {
    this.child.kill('SIGCONT')
  }

  async kill(): Promise<void> {
    this.child.kill('SIGKILL')
    await this.ended
  }

  private printed(pattern: RegExp, limitMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (what: string): void => {
        clearTimeout(timer)
        reject(
          new OperationError(
            'CHILD',
            `demo: the ${this.name} ${what}${this.log.length > 0 ? `: ${this.log.slice(-5).join(' | ')}` : ''}`,
          ),
        )
      }
      const timer = setTimeout(() => fail(`was not ready within ${limitMs / 1000} s`), limitMs)
      void this.ended.then(() => fail(`ended early (exit code ${this.child.exitCode})`))
      this.child.once('error', error => fail(`cannot be started: ${error.message}`))
      this.waiting.push(line => {
        if (!pattern.test(line)) return
        clearTimeout(timer)
        resolve()
      })
    })
  }

  private partial = ''
  private received(chunk: Buffer, stdout: boolean): void {
    const text = stdout ? this.partial + chunk.toString() : chunk.toString()
    const lines = text.split('\n')
    const rest = lines.pop() ?? ''
    if (stdout) this.partial = rest
    else if (rest !== '') lines.push(rest)
    for (const line of lines) {
      this.log.push(line)
      if (this.log.length > LOG_LINES_MAX) this.log.shift()
      if (stdout) for (const listener of this.waiting) listener(line)
    }
  }
}
