// Everything that is compared, by name: what it is, and how it is started with { folder, sizeBytes }.
import { freeTcpPort } from '../lib/files.mjs'
import { startBacklog } from './backlog.mjs'
import { startDisk } from './disk.mjs'
import { startGuest } from './guest.mjs'
import { startHistory, startHistoryOn } from './history.mjs'
import { startLink, startPrototype } from './link.mjs'
import { startIdle, startSize, startVolumes } from './many.mjs'
import { startMirror } from './mirror.mjs'
import { startNbdServer } from './nbd-server.mjs'
import { startNbdkit, startNbdkitFio, startNbdkitTcp } from './nbdkit.mjs'
import { startQemuNbd } from './qemu-nbd.mjs'
import { startSpeaking, startStarting } from './starting.mjs'
import { startCold, startSync } from './starts.mjs'
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

  'link-1350': { what: 'the record stream of a session, packets of 1350 bytes', start: startLink('quic', 1350) },
  'link-1350-loss': { what: 'the same, 1 % of the packets lost', start: startLink('quic', 1350, 1) },
  link: { what: 'the same, the discovered packet size', start: startLink('quic') },
  'link-tls': { what: 'TLS 1.3 over TCP (GnuTLS, AES-128-GCM)', start: startLink('tls') },
  'link-tcp': { what: 'TCP in clear text', start: startLink('tcp') },
  'prototype-1350': { what: 'the prototype of the link, packets of 1350 bytes', start: startPrototype(1350) },

  'cold-nbdkit': { what: 'nbdkit, from nothing to the first answer', start: startCold(startNbdkit, 'cold-nbdkit') },
  'cold-qemu-nbd': {
    what: 'qemu-nbd, the same',
    start: startCold(context => startQemuNbd(context, 'io_uring'), 'cold-qemu-nbd'),
  },
  'cold-alone': { what: 'understudy master, the same', start: startCold(startAlone, 'cold-alone') },
  sync: { what: 'understudy: a new standby, and one that missed half of the volume', start: startSync },
  backlog: { what: 'understudy with a standby that has stopped for a while', start: startBacklog },
  'idle-64': { what: 'understudy: 64 volumes that nobody uses', start: context => startIdle(context, 64) },
  'size-1g': { what: 'understudy alone, a volume of 1 GiB', start: context => startSize(context, 'size-1g', 2 ** 30) },
  'size-16t': { what: 'the same, 16 TiB', start: context => startSize(context, 'size-16t', 2 ** 44) },
  'volumes-1': { what: 'understudy alone, one volume', start: context => startVolumes(context, 1, 1) },
  'volumes-64': { what: 'the same, 64 volumes, one of them used', start: context => startVolumes(context, 64, 1) },
  'volumes-64-all': { what: 'the same, all of them used', start: context => startVolumes(context, 64, 64) },

  'starting-1g': { what: 'understudy: a standby whose master dies, 1 GiB', start: startStarting(1) },
  'starting-4g': { what: 'the same, 4 GiB', start: startStarting(4) },
  'starting-10g': { what: 'the same, 10 GiB', start: startStarting(10) },
  'starting-10g-cached': { what: 'the same, kept in memory', start: startStarting(10, '--cache-size', '1GiB') },
  'starting-16g': { what: 'the same, 16 GiB', start: startStarting(16) },
  'starting-guest': { what: 'the same, 10 GiB, until its guest speaks', start: startSpeaking(10) },

  history: { what: 'a standby alone, which keeps a history', start: startHistory },
  'history-xfs': { what: 'the same, on an XFS of its own: epochs begin with clones', start: startHistoryOn('xfs') },
  'history-ext4': { what: 'the same, on an ext4 of its own: epochs save blocks', start: startHistoryOn('ext4') },

  'drbd-A': { what: 'DRBD 8.4, protocol A, in a user-mode-linux guest', start: startGuest('drbd-A') },
  'drbd-C': { what: 'the same, protocol C', start: startGuest('drbd-C') },
  'guest-async': {
    what: 'understudy in the same guest, its block device by nbd-client: async',
    start: startGuest('guest-async'),
  },
  'guest-received': { what: 'the same, received', start: startGuest('guest-received') },
}
