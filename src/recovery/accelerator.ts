/**
 * What QEMU runs guests with on this host. /dev/kvm may be there and be of no use, above all where the host is a virtual
 * machine itself: QEMU opens it, prefers it, and dies of it (`kvm_buf_set_msrs: Assertion ... failed`). So one is started
 * that does nothing, once, with the processor that machines get.
 *
 * Does not: judge what a machine's own arguments say (`-accel`, `-cpu`).
 */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'

import { qemuProgram } from './command-line.js'

const probeMs = 5_000
/** As a shell says it, and setpriv. */
const notFound = 127

/** For `-machine accel=`. */
export type AcceleratorName = 'kvm' | 'tcg'

export class Accelerator {
  #looked: Promise<AcceleratorName> | undefined
  #name: AcceleratorName

  constructor(
    private readonly probe: () => Promise<boolean | undefined> = startsWithKvm,
    device = '/dev/kvm',
  ) {
    this.#name = isThere(device) ? 'kvm' : 'tcg'
  }

  /** Until look() has resolved: what the device's presence says. */
  get name(): AcceleratorName {
    return this.#name
  }

  /** Takes 0.15 s, the first time. Never rejects. */
  look(): Promise<AcceleratorName> {
    return (this.#looked ??= this.#look())
  }

  async #look(): Promise<AcceleratorName> {
    const starts = this.#name === 'tcg' || (await this.probe())
    if (starts === undefined) this.#looked = undefined
    if (starts === false) this.#name = 'tcg'
    return this.#name
  }
}

function isThere(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}

/**
 * Its processors are made and asked what they hold; none of them runs. It ends with this process, however that ends.
 * Undefined: there is no QEMU.
 */
function startsWithKvm(): Promise<boolean | undefined> {
  const args = ['-nodefaults', '-display', 'none', '-machine', 'q35,accel=kvm', '-cpu', 'max', '-m', '16M', '-S']
  return new Promise(resolve => {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', qemuProgram, ...args, '-qmp', 'stdio'], {
      stdio: ['pipe', 'ignore', 'ignore'],
      timeout: probeMs,
      killSignal: 'SIGKILL',
    })
    child.once('error', () => resolve(undefined))
    child.once('close', code => resolve(code === notFound ? undefined : code === 0))
    child.stdin.on('error', () => undefined) // It has died of KVM before it has read that.
    child.stdin.end('{"execute":"qmp_capabilities"}{"execute":"quit"}')
  })
}
