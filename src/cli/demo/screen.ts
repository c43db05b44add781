/**
 * What the demo shows: numbered steps with what each proves and how long it took, and a bar while something moves. On
 * a terminal the bar is rewritten in place; elsewhere a plain line appears a few times a second.
 */
import { formatDuration } from '../../core/units.js'

const BAR_CELLS = 32
const PLAIN_INTERVAL_MS = 250

export class Screen {
  private step = 0
  private started = 0
  private barShown = false
  private lastPlain = 0
  private readonly begun = performance.now()

  constructor(private readonly out: NodeJS.WriteStream) {}

  line(text: string): void {
    // The bar stays as it was last.
    if (this.barShown) this.out.write('\n')
    this.barShown = false
    this.out.write(`${text}\n`)
  }

  /** A step begins: what is done. */
  begin(what: string): void {
    this.step += 1
    this.started = performance.now()
    this.lastPlain = 0
    this.line(`${String(this.step).padStart(2)}. ${what}`)
  }

  /** A detail of the step that is under way. */
  detail(text: string): void {
    this.line(`      ${text}`)
  }

  /** The step held: what that proves. */
  held(proof: string): void {
    this.line(`    ok (${formatDuration(performance.now() - this.started)}): ${proof}`)
  }

  /** done of total, with a remark such as "lag 3.2 MiB". */
  bar(label: string, done: number, total: number, remark = ''): void {
    const share = total === 0 ? 1 : Math.min(1, done / total)
    const percent = `${Math.floor(share * 100)} %`.padStart(5)
    if (this.out.isTTY) {
      const cells = Math.round(share * BAR_CELLS)
      const text = `      ${label.padEnd(9)} [${'#'.repeat(cells)}${'.'.repeat(BAR_CELLS - cells)}] ${percent}  ${remark}`
      this.out.write(`\r\x1b[K${text.slice(0, (this.out.columns ?? 80) - 1)}`)
      this.barShown = true
    } else if (performance.now() - this.lastPlain >= PLAIN_INTERVAL_MS) {
      this.lastPlain = performance.now()
      this.line(`      ${label} ${percent.trim()}  ${remark}`.trimEnd())
    }
  }

  elapsed(): string {
    return formatDuration(performance.now() - this.begun)
  }
}
