// What is measured, and what it must show: one part after the other, each with its peers, loads and figures.
//
// part    { name, title, place: 'memory' | 'disk', peers, loads, figures, slow, slowWhenQuick, judgedWhenQuick, rounds }
//         slow: its peers replicate, and a rate counts over at least 30 s (lib/plan.mjs); the others: with --quick too,
//         and then only the peers that are compared; at most so many rounds; usualRounds: unless others are asked for
// load    { name, block, depth, unit, sequential, reads (percent), flushEvery, connections, regions, replays, writes, quick,
//         measures: what the tables show of its samples beside the usual; seconds: of one measurement, whatever is asked }
// figure  { text, load, peer, measure, against, againstMeasure, compare, atLeast or atMost, unit, headline }
//         The median over the rounds of measure(peer), or of its ratio to (or difference from) the one of `against` that
//         has the highest median rate; `percent`: what so many of a hundred rounds do not exceed, not the median. README.md shows those with a headline. Only those of a load with `quick` are measured with --quick.

const KiB4 = 4096
const MiB = 1 << 20

const write = (depth, more = {}) => ({
  name: `4 KiB random writes, depth ${depth}`,
  ...{ block: KiB4, depth, unit: 'requests', ...more },
})
const read = (depth, more = {}) => ({
  name: `4 KiB random reads, depth ${depth}`,
  ...{ block: KiB4, depth, reads: 100, unit: 'requests', ...more },
})
const stream = (what, more = {}) => ({
  name: `1 MiB sequential ${what}, depth 8`,
  ...{ block: MiB, depth: 8, sequential: true, reads: what === 'reads' ? 100 : 0, unit: 'bytes', ...more },
})
const quick = { quick: true }

const [w1, w8, w32] = [write(1, quick), write(8), write(32, quick)]
const [r1, r8, r32] = [read(1, quick), read(8), read(32, quick)]
const [ws, rs] = [stream('writes', quick), stream('reads', quick)]
const mixed = { name: '4 KiB random, 70 % reads, depth 32', block: KiB4, depth: 32, reads: 70, unit: 'requests' }
const w64 = { name: '64 KiB random writes, depth 8', block: 16 * KiB4, depth: 8, unit: 'bytes' }
const r64 = { name: '64 KiB random reads, depth 8', block: 16 * KiB4, depth: 8, reads: 100, unit: 'bytes' }
const connections = (load, what) => ({
  ...load,
  name: `4 KiB random ${what}, 4 connections of depth 8`,
  connections: 4,
})
const [w4x8, r4x8] = [connections(write(8), 'writes'), connections(read(8), 'reads')]
const fsyncEach = {
  name: '4 KiB random writes, flush after each',
  block: KiB4,
  depth: 1,
  flushEvery: 1,
  unit: 'requests',
}
const fsync16 = {
  name: '4 KiB random writes, depth 16, flush after 16',
  block: KiB4,
  depth: 16,
  flushEvery: 16,
  unit: 'requests',
}

/** What every kind of server is measured under, on every kind of device. */
const everything = [w32, r32, w1, r1, ws, rs, w8, r8, w64, r64, mixed, w4x8, r4x8, fsyncEach, fsync16]
const fullOnly = load => ({ ...load, quick: false })

const servers = ['nbdkit', 'qemu-nbd', 'qemu-nbd-threads', 'nbd-server']

// ---- no standby ------------------------------------------------------------------------------------------------------

const againstBest = load => ({
  text: 'no standby, rate, against the best plain server',
  ...{ load: load.name, peer: 'alone', against: servers, measure: 'rate', atLeast: 1.0, unit: 'times' },
})
const cpuAgainstBest = (load, atMost) => ({
  text: 'no standby, CPU of a request, against the best plain server',
  ...{ load: load.name, peer: 'alone', against: servers, measure: 'cpuUs', atMost, unit: 'times' },
})
const againstQemu = load => ({
  text: 'no standby, rate, against qemu-nbd io_uring',
  ...{ load: load.name, peer: 'alone', against: ['qemu-nbd'], measure: 'rate', atLeast: 1.6, unit: 'times' },
})

const plain = {
  name: 'plain',
  title: 'no standby, in memory',
  place: 'memory',
  peers: [...servers, 'alone'],
  loads: everything,
  figures: [
    { ...againstBest(w32), headline: '4 KiB writes without a standby, depth 32, against the best plain NBD server' },
    { ...againstBest(w1), headline: 'the same, depth 1' },
    ...[r32, r1, ws, rs].map(againstBest),
    ...[w32, r32].map(load => cpuAgainstBest(load, 0.8)),
    ...[w1, r1].map(load => cpuAgainstBest(load, 0.6)),
    ...[w32, r32, w1, r1].map(againstQemu),
  ],
}

const tcp = {
  name: 'tcp',
  title: 'no standby, in memory, over TCP',
  place: 'memory',
  peers: ['nbdkit-tcp', 'alone-tcp'],
  loads: [w32, r32, w1, r1, ws, rs, w4x8].map(fullOnly),
  figures: [],
}

/** Our load generator beside fio, on the same kind of server. */
const client = {
  name: 'client',
  title: 'the load generator, beside fio',
  place: 'memory',
  peers: ['nbdkit', 'nbdkit-fio'],
  loads: [w32, r32, w1, ws].map(load => ({
    ...fullOnly(load),
    measures: [{ measure: 'clientCpuUs', title: '  CPU of the client', unit: 'us' }],
  })),
  figures: [],
}

const plainDisk = {
  name: 'plain-disk',
  title: 'no standby, on a disk',
  place: 'disk',
  peers: [...servers, 'alone'],
  loads: everything.map(fullOnly),
  figures: [],
}

// ---- with a standby --------------------------------------------------------------------------------------------------

const against = (peer, load, mirrors, atLeast, text) => ({
  text,
  ...{ load: load.name, peer, against: mirrors, measure: 'rate', atLeast, unit: 'times' },
})
const mirrors = ['mirror', 'mirror-background']
const equal = 'received, against the write-blocking mirror'

const replicated = {
  name: 'replicated',
  title: 'with a standby, in memory, until applied = written',
  place: 'memory',
  slow: true,
  slowWhenQuick: true,
  judgedWhenQuick: true,
  peers: [...mirrors, 'async', 'async-1350', 'received'],
  loads: [w1, w32, ws],
  figures: [
    {
      ...against('async', w1, mirrors, 4, "async, against the better of QEMU's mirrors"),
      headline:
        "4 KiB writes replicated with encryption, async, depth 1, against the better of QEMU's mirrors in clear text",
    },
    {
      ...against('async', w32, mirrors, 3, "async, against the better of QEMU's mirrors"),
      headline: 'the same, depth 32',
    },
    against('async-1350', w32, mirrors, 2, "async, packets of 1350 bytes, against the better of QEMU's mirrors"),
    against('async', ws, ['mirror'], 1.3, 'async, against the write-blocking mirror'),
    against('async-1350', ws, ['mirror'], 0.75, 'async, packets of 1350 bytes, against the write-blocking mirror'),
    against('received', w1, ['mirror'], 1.1, equal),
    {
      ...against('received', w32, ['mirror'], 2, equal),
      headline: "4 KiB writes that both sides have, depth 32, against QEMU's write-blocking mirror",
    },
    {
      text: 'received, added latency over async at p50',
      ...{
        load: w1.name,
        peer: 'received',
        against: ['async'],
        measure: 'p50Us',
        compare: 'difference',
        atMost: 60,
        unit: 'us',
      },
    },
    {
      text: 'received, p99 to p50 of a write',
      ...{ load: w1.name, peer: 'received', measure: 'tail', atMost: 3, unit: 'times' },
    },
  ],
}

const durabilities = (name, place, title) => ({
  ...{ name, title, place, slow: true, rounds: 3 },
  peers: ['async', 'flush', 'received', 'durable'],
  loads: everything.map(fullOnly),
  figures: [],
})

const fsync = {
  name: 'fsync',
  title: 'with a standby, both on the same disk: what a flush costs',
  place: 'disk',
  slow: true,
  peers: ['disk', 'alone', 'flush'],
  loads: [{ ...fsyncEach, quick: true }, fsync16],
  figures: [
    {
      text: "flush, time of a fsync over the disk's own fdatasync, p50",
      ...{
        load: fsyncEach.name,
        peer: 'flush',
        against: ['disk'],
        measure: 'flushP50Us',
        compare: 'difference',
        atMost: 150,
        unit: 'us',
      },
    },
  ],
}

const durable = {
  name: 'durable',
  title: 'durable, both on the same disk: group commit',
  place: 'disk',
  slow: true,
  peers: ['disk', 'durable'],
  loads: [w32],
  figures: [
    {
      text: 'durable, writes of one fdatasync of the standby',
      ...{ load: w32.name, peer: 'durable', measure: 'writesPerFsync', atLeast: 8, unit: 'number' },
    },
    {
      text: "durable, p99 of a write, against the disk's fdatasync at p50",
      ...{
        load: w32.name,
        peer: 'durable',
        against: ['disk'],
        measure: 'p99Us',
        againstMeasure: 'p50Us',
        atMost: 2.5,
        unit: 'times',
      },
    },
  ],
}

// ---- the link, memory, many volumes, starts ------------------------------------------------------------------------------

const bulk = {
  ...{ name: 'bulk, one session', unit: 'bytes', quick: true },
  measures: [
    { measure: 'cpuPerGiB', title: '  CPU seconds a GiB', unit: 'number' },
    { measure: 'packetBytes', title: '  bytes a packet', unit: 'count' },
  ],
}
const link = {
  name: 'link',
  title: 'the link alone, on loopback',
  place: 'memory',
  peers: ['link-1350', 'prototype-1350', 'link-1350-loss', 'link', 'link-tls', 'link-tcp'],
  loads: [bulk],
  figures: [
    {
      text: 'the link alone, packets of 1350 bytes, against its prototype',
      ...{
        load: bulk.name,
        peer: 'link-1350',
        against: ['prototype-1350'],
        measure: 'rate',
        atLeast: 0.95,
        unit: 'times',
      },
    },
    {
      text: 'the same with 1 % loss, against without',
      ...{
        load: bulk.name,
        peer: 'link-1350-loss',
        against: ['link-1350'],
        measure: 'rate',
        atLeast: 0.6,
        unit: 'times',
      },
    },
  ],
}

const backlog = {
  name: 'backlog',
  title: 'memory with a full log of 256 MiB',
  place: 'memory',
  peers: ['backlog'],
  loads: [
    {
      ...{ name: 'full log', quick: true },
      measures: ['master', 'standby'].map(side => ({ measure: `${side}MiB`, title: `  ${side}`, unit: 'mib' })),
    },
  ],
  figures: ['master', 'standby'].map(side => ({
    text: `memory of the ${side} beyond the size of the log`,
    ...{ load: 'full log', peer: 'backlog', measure: `${side}OverMiB`, atMost: 96, unit: 'mib' },
  })),
}

const sides = ['master', 'standby']
const idle = {
  name: 'idle',
  title: '64 volumes that nobody uses',
  place: 'memory',
  slow: true,
  peers: ['idle-64'],
  loads: [
    {
      ...{ name: 'idle, 64 volumes', quick: true },
      measures: sides.flatMap(side => [
        { measure: `${side}Percent`, title: `  ${side}, of one core`, unit: 'percent' },
        { measure: `${side}MiB`, title: `  ${side}`, unit: 'mib' },
      ]),
    },
  ],
  figures: sides.flatMap(side => [
    {
      text: `CPU of the ${side}, of one core`,
      ...{ load: 'idle, 64 volumes', peer: 'idle-64', measure: `${side}Percent`, atMost: 1, unit: 'percent' },
    },
    {
      text: `memory of the ${side}`,
      ...{ load: 'idle, 64 volumes', peer: 'idle-64', measure: `${side}MiB`, atMost: 150, unit: 'mib' },
    },
  ]),
}

const flat = (text, load, peer, base) =>
  [
    { text: `${text}: CPU of a write`, measure: 'cpuUs', atMost: 1.1 },
    { text: `${text}: rate`, measure: 'rate', atLeast: 0.9 },
  ].map(figure => ({ ...figure, load: load.name, peer, against: [base], unit: 'times' }))
const spreadOut = { ...write(8), name: '4 KiB random writes in 64 regions of 4 MiB, depth 8', regions: 64, quick: true }
const sizes = {
  name: 'sizes',
  title: 'volumes of different sizes, without a standby',
  place: 'memory',
  peers: ['size-1g', 'size-16t'],
  loads: [spreadOut],
  figures: flat('a volume of 16 TiB against one of 1 GiB', spreadOut, 'size-16t', 'size-1g'),
}

const each = { ...write(8), name: '4 KiB random writes, depth 8 on each volume', quick: true }
const volumes = {
  name: 'volumes',
  title: 'one daemon with many volumes, without a standby',
  place: 'memory',
  peers: ['volumes-1', 'volumes-64', 'volumes-64-all'],
  loads: [each],
  figures: [
    ...flat('writes to one of 64 volumes, against the only one', each, 'volumes-64', 'volumes-1'),
    ...flat('writes to all of 64 volumes, against one', each, 'volumes-64-all', 'volumes-1').slice(0, 1),
  ],
}

const starts = {
  name: 'starts',
  title: 'from nothing to the first answer, and to a complete copy',
  place: 'memory',
  peers: ['cold-nbdkit', 'cold-qemu-nbd', 'cold-alone', 'sync'],
  loads: [
    {
      name: 'start',
      measures: [
        { measure: 'startMs', title: '  first answer', unit: 'ms' },
        { measure: 'initialRate', title: '  initial synchronisation', unit: 'bytes' },
        { measure: 'resyncRate', title: '  resynchronisation', unit: 'bytes' },
      ],
    },
  ],
  figures: [],
}

const opening = 'a moment until 4 KiB of it are read'
const onDisks = ['history-xfs', 'history-ext4']
const replaying = (name, replays) => ({
  name: `replay of ${name}, with a history against without`,
  ...{ replays, peers: onDisks, unit: 'bytes' },
  measures: [
    { measure: 'plainRate', title: '  without', unit: 'bytes' },
    { measure: 'ratio', title: '  of that', unit: 'times' },
    { measure: 'applierUs', title: '  CPU of a record in the applier', unit: 'us' },
    { measure: 'plainApplierUs', title: '  without', unit: 'us' },
    { measure: 'longestMs', title: '  longest wait for a record', unit: 'ms' },
    { measure: 'plainLongestMs', title: '  without', unit: 'ms' },
    { measure: 'clonedEpochs', title: '  epochs with clones', unit: 'count' },
    { measure: 'savedMiB', title: '  blocks saved', unit: 'mib' },
  ],
})
const writing = {
  name: 'what the disk took of 1.5 GiB of 4 KiB random writes to a full volume',
  ...{ writes: 1536 * MiB, block: KiB4, depth: 32, peers: onDisks },
  measures: [
    { measure: 'times', title: '  of what the client wrote', unit: 'times' },
    { measure: 'plainTimes', title: '  without a history', unit: 'times' },
    { measure: 'epochs', title: '  epochs', unit: 'count' },
    { measure: 'clonedEpochs', title: '  of them with clones', unit: 'count' },
    { measure: 'savedMiB', title: '  blocks saved', unit: 'mib' },
  ],
}
const history = {
  name: 'history',
  title: 'a history: time travel start by distance, inside a standby; what it costs replay and the disk; in memory',
  place: 'memory',
  peers: ['history', ...onDisks],
  rounds: 3,
  loads: [
    {
      name: opening,
      peers: ['history'],
      measures: [
        ...[1, 10, 100, 1000].map(back => ({
          measure: `back${back}Us`,
          title: `  ${back} ${back === 1 ? 'segment' : 'segments'} back`,
          unit: 'us',
        })),
        { measure: 'epochUs', title: '  at the end of an epoch of full size', unit: 'us' },
      ],
    },
    replaying('4 KiB random writes', 'random'),
    replaying('64 KiB sequential writes', 'sequential'),
    writing,
  ],
  figures: [
    ...['back1000Us', 'epochUs'].map(measure => ({
      text: `${opening}: ${measure === 'epochUs' ? 'at the end of an epoch of 512 MiB' : '1000 segments back'}`,
      ...{ load: opening, peer: 'history', measure, atMost: 1e6, unit: 'us' },
    })),
    ...[
      ['history-xfs', 'with reflink (XFS)', 2.2],
      ['history-ext4', 'without (ext4)', 3.2],
    ].map(([peer, text, atMost]) => ({
      text: `write amplification of a standby with a history, ${text}`,
      ...{ load: writing.name, peer, measure: 'times', atMost, unit: 'times' },
    })),
  ],
}

const waiting = 'vm start until the last durable block is read'
const starting = {
  name: 'starting',
  title: `${waiting}, 10,000 records not replayed, on a disk`,
  place: 'disk',
  usualRounds: 100,
  peers: ['starting-1g', 'starting-4g', 'starting-10g', 'starting-10g-cached', 'starting-16g', 'starting-guest'],
  loads: [
    {
      ...{ name: waiting, seconds: 3 },
      measures: [
        ...[50, 95, 99, 100].map(percent => ({
          ...{ measure: 'readyUs', percent, unit: 'us' },
          title: percent === 100 ? '  most' : `  p${percent}`,
        })),
        ...[50, 99].map(percent => ({
          ...{ measure: 'guestUs', percent, unit: 'us' },
          title: `  the guest's own word on its console, p${percent}`,
        })),
        { measure: 'behind', title: '  records not replayed', unit: 'count' },
        { measure: 'replaceUs', title: '  replacing a small file durably', unit: 'us' },
      ],
    },
  ],
  figures: ['starting-10g', 'starting-10g-cached'].map(peer => ({
    text: `p99, 10 GiB${peer === 'starting-10g' ? '' : ' in memory (--cache-size)'}`,
    ...{ load: waiting, peer, measure: 'readyUs', percent: 99, atMost: 50_000, unit: 'us' },
  })),
}

// ---- DRBD --------------------------------------------------------------------------------------------------------------------

const [g1, g8] = [write(1), write(8)]
const againstDrbd = (load, peer, drbd) => ({
  text: `${peer.replace('guest-', '')} as a block device, against DRBD protocol ${drbd}, in one guest`,
  ...{ load: load.name, peer, against: [`drbd-${drbd}`], measure: 'rate', atLeast: 1.0, unit: 'times' },
})
const drbd = {
  name: 'drbd',
  title:
    "DRBD 8.4 and this program in one user-mode-linux guest with one CPU, disks in memory, no flushes, fio's libaio",
  place: 'memory',
  peers: ['drbd-A', 'guest-async', 'drbd-C', 'guest-received'],
  loads: [g1, g8],
  figures: [g1, g8].flatMap(load => [againstDrbd(load, 'guest-async', 'A'), againstDrbd(load, 'guest-received', 'C')]),
}

export const parts = [
  ...[plain, client, tcp, plainDisk, replicated],
  durabilities('durabilities', 'memory', 'all durability modes, in memory'),
  durabilities('durabilities-disk', 'disk', 'all durability modes, both on the same disk'),
  ...[fsync, durable],
  ...[link, backlog, idle, sizes, volumes, starts, starting, history, drbd],
]
