/**
 * A process that stays until its parent has ended, however that ends: then it kills the command that its parent was running,
 * with all that this has started, and removes its parent's folder. A parent that is killed could not.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import type { Writable } from 'node:stream'

/** Reads of process groups, one a line, of which the last one counts; an empty line: none runs. */
const script = 'while read -r group; do last=$group; done; test -z "$last" || kill -9 "-$last"; exec rm -rf -- "$1"'

export class Caretaker {
  readonly #input: Writable
  readonly #gone: Promise<void>

  constructor(folder: string) {
    // A session of its own: Ctrl-C is its parent's. The pipe is nobody else's, so that its end is the parent's.
    const child = spawn('/bin/sh', ['-c', script, 'understudy-caretaker', folder], {
      ...{ stdio: ['pipe', 'ignore', 'ignore'], detached: true, cwd: '/' },
    })
    this.#input = child.stdin
    child.stdin.on('error', () => undefined) // Who has killed it has to clean up.
    this.#gone = new Promise(resolve => {
      child.once('error', () => resolve())
      child.once('exit', () => resolve())
    })
  }

  /** `command`: with a process group of its own (`detached: true`); undefined: it has ended. */
  watch(command: ChildProcess | undefined): void {
    this.#input.write(`${command?.pid ?? ''}\n`)
  }

  /** Resolves when the folder is removed. */
  dismiss(): Promise<void> {
    this.#input.end()
    return this.#gone
  }
}
