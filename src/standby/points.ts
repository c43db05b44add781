/**
 * The points of a group that somebody labelled, in STORE/.groups/GROUP/points: one a line, the newest last:
 *
 *   6f0c...e1 {"kind":"mark","label":"before upgrade","incarnation":"17","sequence":"4711","timeNs":"1764403200..."}
 *   (the first 16 digits of the SHA-256 of what follows the space)
 *
 * Guarantees: a point is on stable storage when add() returns; a line that is torn or damaged is no point, and does not
 * take others with it (G8); there are never more than pointsMax: the oldest go, first those the history has outlived.
 * Does not: know which of them the history still has.
 */
import { createHash } from 'node:crypto'
import { closeSync, fdatasyncSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

import { replaceFile, syncDirectory } from '../core/atomic-file.js'
import { errnoOf, NativeError } from '../core/errors.js'
import { encodePosition } from '../core/reigns.js'
import type { Point } from '../native/binding.js'
import { labelMax } from './moment.js'

/** mark: by hand. clean-stop: the master was stopped and had nothing left to send. flush: a client's. */
export const pointKinds = ['mark', 'clean-stop', 'flush'] as const
export type PointKind = (typeof pointKinds)[number]

export interface HistoryPoint extends Point {
  kind: PointKind
  /** '' of a flush. */
  label: string
}

export const pointsMax = 4096

export class PointsFile {
  readonly #points: HistoryPoint[]
  /** What the file holds is not just the points: it ends in the middle of a line, or some are damaged. */
  #mustRewrite: boolean

  /** Throws when there is a file that cannot be read. */
  constructor(private readonly path: string) {
    const { points, isWhole } = decodePoints(readText(path))
    this.#points = points
    this.#mustRewrite = !isWhole
  }

  /** Oldest first, as they were added. */
  get points(): readonly HistoryPoint[] {
    return this.#points
  }

  /** `isKept`: of points that make room for others when there are too many. */
  add(point: HistoryPoint, isKept: (point: HistoryPoint) => boolean): void {
    const before = [...this.#points]
    this.#points.push(point)
    try {
      if (this.#points.length > pointsMax) this.#makeRoom(isKept)
      else if (this.#mustRewrite) this.#rewrite()
      else this.#append(point)
    } catch (error) {
      // What has reached the disk is not known; the next one writes all anew.
      this.#points.splice(0, this.#points.length, ...before)
      this.#mustRewrite = true
      throw new NativeError(`write ${this.path}`, error)
    }
  }

  #makeRoom(isKept: (point: HistoryPoint) => boolean): void {
    // More than one at a time: the file is written as a whole.
    const kept = this.#points.filter(isKept).slice(-Math.floor((pointsMax * 3) / 4))
    this.#points.splice(0, this.#points.length, ...kept)
    this.#rewrite()
  }

  #append(point: HistoryPoint): void {
    const descriptor = openSync(this.path, 'a', 0o600)
    try {
      writeFileSync(descriptor, encodePoint(point))
      fdatasyncSync(descriptor)
    } finally {
      closeSync(descriptor)
    }
    if (this.#points.length === 1) syncDirectory(dirname(this.path))
  }

  #rewrite(): void {
    const text = this.#points.map(encodePoint).join('')
    replaceFile(this.path, temporary => writeFileSync(temporary, text, { mode: 0o600 }))
    this.#mustRewrite = false
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return ''
    throw new NativeError(`read ${path}`, error)
  }
}

function encodePoint(point: HistoryPoint): string {
  const { kind, label, timeNs } = point
  const text = JSON.stringify({ kind, label, ...encodePosition(point), timeNs: String(timeNs) })
  return `${checksum(text)} ${text}\n`
}

function decodePoints(text: string): { points: HistoryPoint[]; isWhole: boolean } {
  const lines = text.split('\n')
  const isEnded = lines.pop() === ''
  const points = lines.flatMap(line => decodePoint(line) ?? [])
  return { points: points.slice(-pointsMax), isWhole: isEnded && points.length === lines.length }
}

function decodePoint(line: string): HistoryPoint | undefined {
  const text = line.slice(17)
  if (line.slice(0, 17) !== `${checksum(text)} `) return undefined
  const { kind: word, label, ...numbers } = JSON.parse(text) as Record<string, unknown>
  const kind = pointKinds.find(known => known === word)
  const { incarnation, sequence, timeNs } = numbers
  if (kind === undefined || typeof label !== 'string' || label.length > labelMax) return undefined
  if (!isDigits(incarnation) || !isDigits(sequence) || !isDigits(timeNs)) return undefined
  return { kind, label, incarnation: BigInt(incarnation), sequence: BigInt(sequence), timeNs: BigInt(timeNs) }
}

const checksum = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16)
const isDigits = (value: unknown): value is string => typeof value === 'string' && /^\d{1,20}$/.test(value)
