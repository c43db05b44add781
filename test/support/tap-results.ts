/**
 * Reads TAP 14 as tap and the native tests print it, and counts what a person would call a test: an innermost subtest,
 * or a point outside of any subtest. Assertions inside a subtest are its details.
 *
 *   # Subtest: outer
 *       # Subtest: inner          <- counts one
 *           ok 1 - should be equal
 *           1..1
 *       ok 1 - inner
 *       1..1
 *   ok 1 - outer                  <- counts nothing, unless it failed and nothing in it did
 *   ok 2 - outside of any subtest <- counts one
 *
 * A stream without a plan, with a plan that does not fit, or that bails out is a failure of its own.
 */
export type Outcome = 'passed' | 'failed' | 'skipped'

export interface TestResult {
  /** Titles from the outermost subtest to this one. */
  path: string[]
  outcome: Outcome
  /** Of a skip: its reason. Of a failure: the diagnostics as printed. */
  detail: string
}

interface Point {
  ok: boolean
  title: string
  directive: 'skip' | 'todo' | undefined
  reason: string
  diagnostics: string[]
  children: Frame | undefined
}

interface Frame {
  indent: number
  points: Point[]
  planned: number | undefined
  planReason: string
}

const POINT = /^(not )?ok\b(?: +\d+)?(?: +-)?(?: +(.*))?$/
const PLAN = /^1\.\.(\d+)(?: *# *(.*))?$/
const DIRECTIVE = /(?:^|\s+)# (SKIP|TODO)\b[: ]*(.*)$/i
const COMMENTS_TOLD = 40
const TIME = / # time=[\d.]+m?s(?= \{$|$)/

export function parseTap(text: string): TestResult[] {
  const reader = new TapReader()
  for (const line of text.split('\n')) reader.line(line)
  return reader.end()
}

class TapReader {
  private readonly root: Frame = newFrame(0)
  private readonly open: Frame[] = [this.root]
  /** The frame that closed last and waits for the point that names it. */
  private closed: Frame | undefined
  private lastPoint: Point | undefined
  /** Comments outside of any subtest since the last point: a native test says there why the next one fails. */
  private comments: string[] = []
  private yamlIndent: number | undefined
  private bailed: string | undefined

  line(raw: string): void {
    const text = raw.trimStart()
    const indent = raw.length - text.length
    if (this.yamlIndent !== undefined) {
      this.yamlLine(raw, text, indent)
      return
    }
    if (text === '') return
    if (text.startsWith('Bail out!')) this.bailed ??= text
    const plan = PLAN.exec(text)
    const point = plan ? null : POINT.exec(text)
    if (plan) {
      const frame = this.frameAt(indent)
      frame.planned = Number(plan[1])
      frame.planReason = plan[2] ?? ''
    } else if (point) {
      this.point(indent, point[1] === undefined, point[2] ?? '')
    } else if (indent === 0 && text.startsWith('# ') && !text.startsWith('# Subtest')) {
      this.comments.push(text)
    } else if (text === '---' && this.lastPoint !== undefined && indent > 0) {
      this.yamlIndent = indent
    }
  }

  end(): TestResult[] {
    const results: TestResult[] = []
    collect(this.root, [], results)
    if (this.bailed !== undefined) results.push(failure([], this.bailed))
    // A stream that ended inside a subtest, or before its plan, was cut off.
    else if (this.open.length > 1 || this.root.planned === undefined)
      results.push(failure([], 'the output ends before its plan'))
    else if (this.root.planned !== this.root.points.length) {
      results.push(failure([], `${this.root.planned} tests were planned and ${this.root.points.length} reported`))
    }
    return results
  }

  private point(indent: number, ok: boolean, rest: string): void {
    const frame = this.frameAt(indent)
    let title = rest.replace(TIME, '')
    // `ok 1 - title {` opens a buffered subtest, whose lines follow, deeper, and end with `}`.
    const buffered = title.endsWith(' {')
    if (buffered) title = title.slice(0, -2).replace(TIME, '')
    const directive = DIRECTIVE.exec(title)
    const point: Point = {
      ok,
      title: directive ? title.slice(0, directive.index) : title,
      directive: directive ? (directive[1]?.toLowerCase() as 'skip' | 'todo') : undefined,
      reason: directive?.[2] ?? '',
      diagnostics: ok || indent > 0 ? [] : this.comments.slice(-COMMENTS_TOLD),
      children: this.closed?.indent === indent + 4 ? this.closed : undefined,
    }
    this.closed = undefined
    if (indent === 0) this.comments = []
    if (buffered) {
      point.children = newFrame(indent + 4)
      this.open.push(point.children)
    }
    frame.points.push(point)
    this.lastPoint = point
  }

  /** The open frame at this depth: opens it, or closes the deeper ones. */
  private frameAt(indent: number): Frame {
    let top = this.open.at(-1) as Frame
    while (top.indent > indent && this.open.length > 1) {
      this.closed = this.open.pop()
      top = this.open.at(-1) as Frame
    }
    // The first line of an outer subtest may come after all of its inner one: then the frame between is new here.
    if (top.indent < indent) {
      top = newFrame(indent)
      this.open.push(top)
    }
    return top
  }

  private yamlLine(raw: string, text: string, indent: number): void {
    if (text === '...' && indent === this.yamlIndent) this.yamlIndent = undefined
    else this.lastPoint?.diagnostics.push(raw.slice(Math.min(indent, this.yamlIndent ?? 0)))
  }
}

function newFrame(indent: number): Frame {
  return { indent, points: [], planned: undefined, planReason: '' }
}

function collect(frame: Frame, path: string[], results: TestResult[]): void {
  for (const point of frame.points) {
    const here = [...path, point.title]
    const children = point.children?.points ?? []
    const nested = children.some(child => child.children !== undefined)
    // Beside subtests a bare assertion is a detail of the parent: told when it fails.
    const detailOnly = path.length > 0 && point.children === undefined && point.directive === undefined && point.ok
    if (point.directive !== undefined) results.push(skip(here, point))
    else if (nested) collectNested(point, here, results)
    else if (!detailOnly) results.push(leaf(here, point, children))
  }
}

function collectNested(point: Point, here: string[], results: TestResult[]): void {
  const before = results.length
  collect(point.children as Frame, here, results)
  const told = results.slice(before).some(result => result.outcome === 'failed')
  if (!point.ok && !told) results.push(failure(here, point.diagnostics.join('\n')))
}

function leaf(path: string[], point: Point, children: Point[]): TestResult {
  if (!point.ok) {
    const failed = children.filter(child => !child.ok && child.directive === undefined)
    const told = failed.map(child => [`not ok - ${child.title}`, ...child.diagnostics].join('\n'))
    return failure(path, (told.length > 0 ? told : point.diagnostics).join('\n'))
  }
  const skipped = children.filter(child => child.directive !== undefined)
  if (skipped.length === 0) return { path, outcome: 'passed', detail: '' }
  return { path, outcome: 'skipped', detail: skipped.map(skipReason).join('; ') }
}

const skip = (path: string[], point: Point): TestResult => ({ path, outcome: 'skipped', detail: skipReason(point) })
const failure = (path: string[], detail: string): TestResult => ({ path, outcome: 'failed', detail })
const skipReason = (point: Point): string =>
  (point.directive === 'todo' ? 'TODO ' : '') + (point.reason === '' ? point.title : point.reason)
