// Everything that is compared, by name: what it is, and how it is started with { folder, sizeBytes }.
import { freeTcpPort } from '../lib/files.mjs'
import { startDisk } from './disk.mjs'
import { startMirror } from './mirror.mjs'
import { startNbdServer } from './nbd-server.mjs'
import { startNbdkit, startNbdkitFio, startNbdkitTcp } from './nbdkit.mjs'
import { startQemuNbd } from './qemu-nbd.mjs'
import { startAlone, startAloneTcp, startPair } from './understudy.mjs'

const pair = (name, ...flags) => ({
  what: `understudy with a standby on the same machine: ${flags.join(' ')}`,
  start: context => startPair(context, name, flags),
})

export const peers = {
  nbdkit: { what: 'nbdkit file', start: startNbdkit },
  'nbdkit-fio': { what: "the same, fio's nbd engine as the client", start: startNbdkitFio },
  'nbdkit-tcp': { what: 'nbdkit file, over TCP', start: async context => startNbdkitTcp(context, await freeTcpPort()) },
  'qemu-nbd': { what: 'qemu-nbd --aio=io_uring', start: context => startQemuNbd(context, 'io_uring') },
  'qemu-nbd-threads': { what: 'qemu-nbd --aio=threads', start: context => startQemuNbd(context, 'threads') },
  'nbd-server': { what: 'nbd-server', start: startNbdServer },
  mirror: {
    what: "QEMU's storage daemon, blockdev-mirror write-blocking to nbdkit, in clear text over unix sockets",
    start: context => startMirror(context, 'write-blocking'),
  },
  'mirror-background': { what: 'the same, background', start: context => startMirror(context, 'background') },
  alone: { what: 'understudy master without a standby', start: startAlone },
  'alone-tcp': {
    what: 'the same, over TCP',
    start: async context => startAloneTcp(context, await freeTcpPort()),
  },
  async: pair('async', '--durability', 'async'),
  'async-1350': pair('async-1350', '--durability', 'async', '--packet-size', '1350'),
  received: pair('received', '--durability', 'received'),
  flush: pair('flush', '--durability', 'flush'),
  durable: pair('durable', '--durability', 'durable'),
  disk: { what: 'the disk itself: pwrite and fdatasync of a program without a network', start: startDisk },
}
