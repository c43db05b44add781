/** Another process of this host, known by its id and by when it began: an id alone may be somebody else's by now. */
import { readFileSync } from 'node:fs'

import { type Clock, sleep } from './clock.js'

const pollMs = 10

export class OtherProcess {
  private readonly began: string | undefined

  /** 0: unknown, which cannot be ended, and counts as gone. */
  constructor(readonly pid: number) {
    this.began = statOf(pid)?.began
  }

  /** It runs no more, and the kernel has closed its files. */
  get isGone(): boolean {
    const stat = this.began === undefined ? undefined : statOf(this.pid)
    if (stat === undefined || stat.began !== this.began) return true
    // A zombie that is the last of its threads: nobody has asked for its exit code yet.
    return (stat.state === 'Z' || stat.state === 'X') && stat.threads <= 1
  }

  /** False: not within the limit. The kernel closes a process's files a moment before it counts as ended. */
  async gone(clock: Clock, limitMs: number): Promise<boolean> {
    for (const began = clock.monotonicMs(); !this.isGone; await sleep(clock, pollMs))
      if (clock.monotonicMs() - began > limitMs) return false
    return true
  }

  /** SIGKILL. As gone(). */
  end(clock: Clock, limitMs: number): Promise<boolean> {
    if (!this.isGone) kill(this.pid)
    return this.gone(clock, limitMs)
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has just ended, or is not ours to end; isGone says which.
  }
}

/** proc_pid_stat(5): the name in brackets may hold anything, so the fields are counted from its end. */
function statOf(pid: number): { state: string; threads: number; began: string } | undefined {
  if (pid <= 0) return undefined
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return { state: fields[0] ?? '', threads: Number(fields[17]), began: fields[19] ?? '' }
  } catch {
    return undefined
  }
}
