/** A command with a process group of its own (`detached: true`), so that what it has started can be ended with it. */
import type { ChildProcess } from 'node:child_process'

export function killGroup({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  } catch {
    // It has ended by itself.
  }
}
