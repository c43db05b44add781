// Programs that a measurement starts: ended by their own ids, whatever happens, and never any other.
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const running = new Set()
const daemons = new Set() // ids of programs that have put themselves into the background
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
  for (const pid of daemons) signal(pid, 'SIGKILL')
})
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130))

const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, LC_ALL: 'C' }

/** Starts a program; `output()` is the end of what it printed. `input`: 'ignore', or 'pipe' for what is returned as such. */
export function start(command, args, input = 'ignore') {
  const child = spawn(command, args, { stdio: [input, 'pipe', 'pipe'], env: environment })
  running.add(child)
  let text = ''
  const keep = data => (text = (text + data).slice(-20_000))
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  const ended = new Promise(resolve => {
    child.on('error', error => keep(`${command}: ${error.message}`))
    child.on('close', code => (running.delete(child), resolve(code)))
  })
  return {
    ended,
    pid: child.pid,
    input: child.stdin,
    output: () => text,
    get running() {
      return running.has(child)
    },
    async stop() {
      const limit = setTimeout(() => child.kill('SIGKILL'), 20_000)
      if (running.has(child)) child.kill('SIGTERM')
      await ended
      clearTimeout(limit)
    },
  }
}

/** A program that puts itself into the background and leaves its id in a file. */
export async function startDaemon(command, args, pidFile) {
  const printed = await run(command, args)
  let pid = 0
  for (const end = Date.now() + 10_000; pid === 0 && Date.now() < end; await sleep(5)) pid = Number(textOf(pidFile))
  if (pid === 0) throw new Error(`${command} has not written ${pidFile} within 10 s:\n${printed}`)
  daemons.add(pid)
  return {
    pid,
    output: () => printed,
    get running() {
      return signal(pid, 0)
    },
    async stop() {
      for (const end = Date.now() + 20_000; signal(pid, Date.now() < end ? 'SIGTERM' : 'SIGKILL'); await sleep(20));
      daemons.delete(pid)
    },
  }
}

/** False when there is no such process any more. */
function signal(pid, name) {
  try {
    return process.kill(pid, name)
  } catch {
    return false
  }
}

/** Runs a program to its end and returns what it printed; its failure is an error. */
export async function run(command, args, seconds = 120) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment })
  running.add(child)
  const [out, err] = [[], []]
  child.stdout.on('data', data => out.push(data))
  child.stderr.on('data', data => err.push(data))
  const limit = setTimeout(() => child.kill('SIGKILL'), seconds * 1000)
  const code = await new Promise(resolve => {
    child.on('error', error => (err.push(Buffer.from(error.message)), resolve(127)))
    child.on('close', resolve)
  })
  clearTimeout(limit)
  running.delete(child)
  if (code !== 0)
    throw new Error(
      `${command} ${args.join(' ')}: exit code ${code}\n${Buffer.concat(err.length > 0 ? err : out)
        .toString()
        .slice(-2000)}`,
    )
  return Buffer.concat(out).toString()
}

export function versionOf(command, args = ['--version']) {
  const { stdout, error } = spawnSync(command, args, { env: environment, encoding: 'utf8' })
  if (error) throw new Error(`${command} is needed for this measurement and cannot be started: ${error.message}`)
  return stdout.split('\n')[0].trim()
}

const ticksPerSecond = 100 // USER_HZ, the same on every Linux of these machines (proc(5))

/** User and system time of a process: of all its threads, and of its children, gone or not. */
export function cpuSeconds(pid) {
  let ticks = 0
  for (const one of [pid, ...descendants(pid)]) {
    const fields = procFile(one, 'stat').split(') ').at(-1)?.split(' ') ?? []
    // utime, stime; and cutime, cstime: of children that are gone
    for (const field of fields.slice(11, 15)) ticks += Number(field)
  }
  return ticks / ticksPerSecond
}

/** The same of a process whose threads and children all live, to the nanosecond: what an idle one takes is less than a tick. */
export function cpuSecondsOfThreads(pid) {
  const tasks = readdirSync(`/proc/${pid}/task`)
  return tasks.reduce((sum, task) => sum + Number(procFile(pid, `task/${task}/schedstat`).split(' ')[0]), 0) / 1e9
}

/** MiB that a process holds; memory that is mapped twice (our rings) counts once. */
export function memoryMiB(pid) {
  const kib = (text, name) => Number(new RegExp(`^${name}:\\s*(\\d+) kB`, 'm').exec(text)?.[1] ?? 0)
  const [status, smaps] = [procFile(pid, 'status'), procFile(pid, 'smaps_rollup')]
  return (kib(status, 'RssAnon') + kib(status, 'RssFile') + kib(smaps, 'Pss_Shmem')) / 1024
}

function descendants(pid) {
  try {
    const children = readdirSync(`/proc/${pid}/task`).flatMap(task =>
      procFile(pid, `task/${task}/children`).split(' ').filter(Boolean).map(Number),
    )
    return children.flatMap(child => [child, ...descendants(child)])
  } catch {
    return [] // it has ended
  }
}

const procFile = (pid, name) => textOf(`/proc/${pid}/${name}`)

/** What is in a file; nothing when it is not there. */
function textOf(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** Waits until somebody listens on a unix socket, or on { host, port }. */
export async function listening(where, program, seconds = 20) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(20)) {
    if (!program.running) throw new Error(`a program ended before it listened on ${where}:\n${program.output()}`)
    const open = await new Promise(resolve => {
      const socket = connect(where, () => (socket.destroy(), resolve(true)))
      socket.on('error', () => resolve(false))
    })
    if (open) return
  }
  throw new Error(`nobody listens on ${JSON.stringify(where)} after ${seconds} s:\n${program.output()}`)
}
