// Programs that a measurement starts: ended by their own ids, whatever happens, and never any other.
import { spawn, spawnSync } from 'node:child_process'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const running = new Set()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130))

const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, LC_ALL: 'C' }

/** Starts a program; `output()` is the end of what it printed. */
export function start(command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment })
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

/** Waits until somebody listens on a unix socket. */
export async function listening(path, program, seconds = 20) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(20)) {
    if (!program.running) throw new Error(`a program ended before it listened on ${path}:\n${program.output()}`)
    const open = await new Promise(resolve => {
      const socket = connect(path, () => (socket.destroy(), resolve(true)))
      socket.on('error', () => resolve(false))
    })
    if (open) return
  }
  throw new Error(`nobody listens on ${path} after ${seconds} s:\n${program.output()}`)
}
