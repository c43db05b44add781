/** What running a machine takes of the daemon: the machines, the copies of a standby, and a door for NBD clients. */
import type { Clock } from '../core/clock.js'
import type { Logger } from '../core/log.js'
import { nbdUri } from '../core/units.js'
import type { ExportedVolume } from '../standby/open-volumes.js'
import type { GroupView, Viewer, ViewOptions } from '../standby/views.js'
import type { AcceleratorName } from './accelerator.js'
import { type Disk, qemuArguments } from './command-line.js'
import type { Machine } from './definition.js'
import type { DrillResult } from './drill-file.js'
import type { Machines } from './machines.js'

/** Of Standby. */
interface Copies {
  isPromoted(group: string): boolean
  /** Its promotion is on disk, and goes on, or has failed. */
  isBeingPromoted(group: string): boolean
  /** What was asked of the group before is done, or has failed. */
  settled(group: string): Promise<void>
  /** Throws when the group's history has no such moment. */
  checkMoment(action: string, group: string, at: string): Promise<void>
  viewGroup(group: string, options: ViewOptions): Promise<GroupView>
  /** A promotion of the group is near. */
  standAside(group: string): void
  /** `readable`: what was promoted may be read from now on; writes wait until it is done, and a failure ends it. */
  promote(
    volume: string,
    options: { acceptLoss: boolean; force: boolean; at: string; readable: () => void },
  ): Promise<{ messages: string[] }>
  promoted(): { exported: ExportedVolume }[]
}

export interface Stage {
  log: Logger
  clock: Clock
  machines: Machines
  /** Throws when this daemon has none. */
  copies(): Copies
  /** Its copy stays in memory, where it is kept there at all, until the returned function is called. */
  hold(volume: string): () => void
  /** NBD for these volumes alone, at a unix socket of this host. */
  listen(path: string, volumes: ExportedVolume[]): { close(): void }
  /** After a promotion: clients are let in. Returns lines for people. */
  serve(): string[]
  /** A drill has ended, and is noted. */
  drilled?(machine: Machine, result: DrillResult): void
}

/** What a machine runs on that is thrown away. */
export async function viewFor(viewer: Viewer, stage: Stage, { group }: Machine, at: string): Promise<GroupView> {
  const view = await stage.copies().viewGroup(group, { writable: false, at, viewer })
  const held = view.exported.map(({ name }) => stage.hold(name))
  const close = (): Promise<void> => {
    for (const release of held) release()
    return view.close()
  }
  return { ...view, close }
}

/** The disks of a machine, served at a socket. `snapshot`: what is written is QEMU's, and goes with it. */
export const disksAt = (socket: string, volumes: readonly string[], snapshot: boolean): Disk[] =>
  volumes.map(volume => ({
    volume,
    url: nbdUri({ kind: 'unix', path: socket }, volume),
    format: 'raw',
    snapshot,
  }))

/**
 * The command line of a machine that is no more than a copy: whatever its own arguments say, it is on no network, where
 * its original still is.
 */
export const throwAwayArguments = (
  machine: Machine,
  disks: readonly Disk[],
  accelerator: AcceleratorName,
  extra: readonly string[],
): string[] =>
  qemuArguments({ ...machine, qemuArguments: withoutNetwork(machine.qemuArguments) }, disks, accelerator, extra)

/** Without -nic, -net, -netdev, and devices with a netdev. */
export function withoutNetwork(args: readonly string[]): string[] {
  const kept: string[] = []
  for (let index = 0; index < args.length; index++) {
    const [option = '', value = ''] = [args[index], args[index + 1]]
    const name = option.replace(/^--?/, '-')
    if (['-nic', '-net', '-netdev'].includes(name) || (name === '-device' && /(^|,)netdev=/.test(value))) index++
    else kept.push(option)
  }
  return kept
}

/** Of every run that this daemon looks after: a monitor, a pid file, no window. */
export const controlArguments = (monitor: string, pidFile: string): string[] => [
  ...['-display', 'none'],
  ...['-chardev', `socket,id=monitor,path=${monitor.replaceAll(',', ',,')},server=on,wait=off`],
  ...['-mon', 'chardev=monitor,mode=control'],
  ...['-pidfile', pidFile],
]
