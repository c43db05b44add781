/** A history as people look at it: the rate of writes over time, and the points beneath it. */
import type { HistoryReply, PointDocument } from '../daemon/control-protocol.js'
import { formatDuration, formatSize } from '../core/units.js'

type Stretch = Pick<HistoryReply, 'from' | 'to' | 'bucketSeconds' | 'writtenBytes' | 'points'>

const rows = 6
const eighths = ' ▁▂▃▄▅▆▇█'
/** What a column shows of the points in it: the first of these that is there. */
const signs: [PointDocument['kind'], string][] = [
  ['mark', 'M'],
  ['clean-stop', 'S'],
  ['flush', '.'],
]
/** "1023 MiB/s |" */
const labelWidth = 11

/** So many columns are the rate; one bucket each. */
export const timelineBuckets = (width: number): number => Math.min(400, Math.max(20, width - labelWidth - 1))

export function timeline(stretch: Stretch): string[] {
  const { writtenBytes, bucketSeconds, points } = stretch
  const rates = writtenBytes.map(bytes => (bucketSeconds > 0 ? bytes / bucketSeconds : 0))
  const most = Math.max(1, ...rates)
  const lines = Array.from({ length: rows }, (_, index) => {
    const label = index === 0 ? `${formatSize(Math.round(most))}/s` : index === rows - 1 ? '0' : ''
    return axis(label, rates.map(rate => cell(rate / most, rows - 1 - index)).join(''))
  })
  const columns = rates.length
  return [
    ...lines,
    axis('', signsOf(points, stretch, columns), '+'),
    ' '.repeat(labelWidth + 1) + timesOf(stretch, columns),
    ' '.repeat(labelWidth + 1) + 'M mark   S clean stop   . flush',
  ]
}

const axis = (label: string, text: string, line = '|'): string =>
  `${label.padStart(labelWidth - 1)} ${line}${text}`.trimEnd()

/** Of a column that is `share` of the full height, the part in the row `row`, from the bottom. */
function cell(share: number, row: number): string {
  // The least write is seen, too.
  const height = share === 0 ? 0 : Math.max(1, Math.round(share * rows * 8))
  return eighths[Math.min(8, Math.max(0, height - row * 8))] ?? ' '
}

function signsOf(points: readonly PointDocument[], { from, to }: Stretch, columns: number): string {
  const kinds = Array.from({ length: columns }, () => new Set<PointDocument['kind']>())
  const [first, last] = [Date.parse(from), Date.parse(to)]
  for (const { time, kind } of points) {
    const share = last > first ? (Date.parse(time) - first) / (last - first) : 0
    kinds[Math.min(columns - 1, Math.max(0, Math.floor(share * columns)))]?.add(kind)
  }
  return kinds.map(there => signs.find(([kind]) => there.has(kind))?.[1] ?? ' ').join('')
}

/** Begin and end, and the length between them where there is room. */
function timesOf({ from, to }: Stretch, columns: number): string {
  const [first, last] = [shortTime(from), shortTime(to)]
  const length = formatDuration(Date.parse(to) - Date.parse(from))
  const room = columns - first.length - last.length
  if (room < 1) return first
  if (room < length.length + 4) return first + ' '.repeat(room) + last
  const before = Math.floor((room - length.length) / 2)
  return first + ' '.repeat(before) + length + ' '.repeat(room - length.length - before) + last
}

/** "2026-11-29 08:15:00.250Z" */
export const shortTime = (time: string): string => time.replace(/^(.{10})T(.{12}).*$/, '$1 $2Z')

/** "keeps 24h 00m, at most 100 GiB; it takes 1.2 GiB, 300 MiB of it blocks as they were before" */
export function keptText({ ageSecondsMax, bytesMax, bytes, savedBytes, ...kept }: HistoryReply): string {
  const limits = [
    ...(ageSecondsMax > 0 ? [formatDuration(ageSecondsMax * 1000)] : []),
    ...(bytesMax > 0 ? [`at most ${formatSize(bytesMax)}`] : []),
  ]
  const saved = savedBytes > 0 ? `, ${formatSize(savedBytes)} of it blocks as they were before` : ''
  const packed =
    kept.compressedBytes > 0
      ? `, ${formatSize(kept.uncompressedBytes)} of records compressed to ${formatSize(kept.compressedBytes)}`
      : ''
  return `keeps ${limits.join(', ')}; it takes ${formatSize(bytes)}${saved}${packed}`
}

/** A line a point, the newest last. */
export function pointLines(points: readonly PointDocument[]): string[] {
  const rowsOf = points.map(point => [shortTime(point.time), positionText(point), point.kind, point.label])
  const table = [['TIME', 'POSITION', 'POINT', 'LABEL'], ...rowsOf]
  const widths = [0, 1, 2].map(index => Math.max(...table.map(row => row[index]?.length ?? 0)))
  return table.map(row =>
    row
      .map((text, index) => text.padEnd(widths[index] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

/** As --at takes it. */
export const positionText = ({ incarnation, sequence }: { incarnation: string; sequence: string }): string =>
  `${incarnation}:${sequence}`
