/**
 * Runs a program in a process group of its own and leaves nothing of it behind: at the end, at a time limit, and when
 * this process is itself ended, the whole group is killed, by its id.
 */
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
  timedOut: boolean
  /** Processes of the group that were still alive when its leader had ended: `pid command`. */
  leftBehind: string[]
  seconds: number
  /** CPU seconds, user and system, of the program and of what it has waited for. */
  cpuSeconds: number
}

/** What a stream may grow to; beyond it the middle is dropped. */
const OUTPUT_BYTES_MAX = 32 << 20

const groups = new Set<number>()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    process.exit(130)
  })
}
process.on('exit', () => {
  for (const group of groups) killGroup(group)
})

export async function runGroup(
  command: string,
  args: string[],
  options: { seconds: number; env?: NodeJS.ProcessEnv; cwd?: string },
): Promise<Ended> {
  const started = performance.now()
  const child = spawn(command, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: options.env ?? process.env,
    cwd: options.cwd,
  })
  const group = child.pid
  if (group !== undefined) groups.add(group)
  const stdout = collect(child.stdout)
  const stderr = collect(child.stderr)
  let timedOut = false
  let leftBehind: string[] = []
  let cpuSeconds = 0

  const ended = await new Promise<{ code: number | null; signal: NodeJS.Signals | null }>(resolve => {
    const limit = setTimeout(() => {
      timedOut = true
      if (group !== undefined) killGroup(group)
    }, options.seconds * 1000)
    child.on('error', error => {
      clearTimeout(limit)
      stderr.push(Buffer.from(`${command}: ${error.message}\n`))
      resolve({ code: 127, signal: null })
    })
    // 'exit' and not 'close': a process left behind holds the pipes open.
    child.on('exit', (code, signal) => {
      clearTimeout(limit)
      cpuSeconds = cpuOfEnded()
      void graceful(group).then(members => {
        leftBehind = members
        if (group !== undefined) killGroup(group)
        setTimeout(resolve, 20, { code, signal })
      })
    })
  })
  if (group !== undefined) groups.delete(group)
  child.stdout.destroy()
  child.stderr.destroy()
  return {
    ...ended,
    stdout: Buffer.concat(stdout).toString(),
    stderr: Buffer.concat(stderr).toString(),
    timedOut,
    leftBehind: timedOut ? [] : leftBehind,
    seconds: (performance.now() - started) / 1000,
    cpuSeconds,
  }
}

/** USER_HZ of every Linux that node runs on. */
const TICKS_PER_SECOND = 100
let ticksTold = 0

/**
 * CPU seconds of the children that have ended since this was last asked, and of all that they had waited for: what the
 * kernel adds to this process when it waits for them. Asked at the exit of each child, it is what that child took (two
 * that end within the same millisecond are told as one). A daemon that outlived its parent is not in it.
 */
export function cpuOfEnded(): number {
  const stat = readFileSync('/proc/self/stat', 'latin1')
  // From the state on, which is field 3: cutime is field 16 and cstime field 17 (proc_pid_stat(5)).
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const ticks = Number(fields[13]) + Number(fields[14])
  const since = ticks - ticksTold
  ticksTold = ticks
  return since / TICKS_PER_SECOND
}

/** Children that were told to end get 300 ms to be gone. */
async function graceful(group: number | undefined): Promise<string[]> {
  if (group === undefined) return []
  for (let attempt = 0; attempt < 6 && groupMembers(group).length > 0; attempt += 1) {
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  return groupMembers(group)
}

function groupMembers(group: number): string[] {
  const members: string[] = []
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    let stat: string
    try {
      stat = readFileSync(`/proc/${name}/stat`, 'latin1')
    } catch {
      continue // ended while we looked
    }
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    // state, parent, process group; a zombie holds nothing and waits for its parent alone
    if (Number(fields[2]) === group && fields[0] !== 'Z' && fields[0] !== 'X')
      members.push(`${name} ${commandOf(name)}`)
  }
  return members
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
  } catch {
    return '(gone)'
  }
}

function killGroup(group: number): void {
  try {
    process.kill(-group, 'SIGKILL')
  } catch {
    // none left
  }
}

function collect(stream: NodeJS.ReadableStream): Buffer[] {
  const chunks: Buffer[] = []
  let bytes = 0
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes <= OUTPUT_BYTES_MAX) chunks.push(chunk)
  })
  return chunks
}
