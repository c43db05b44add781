/** What a test does with a scrape: read it, and have promtool judge it. */
import { spawnSync } from 'node:child_process'

/** Series of a scrape: name{label="value",...} as it stands in the text, to its value. */
export function parseSeries(text: string): Map<string, number> {
  const series = new Map<string, number>()
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue
    const space = line.lastIndexOf(' ')
    const name = line.slice(0, space)
    if (series.has(name)) throw new Error(`scrape: series ${name} is there twice`)
    series.set(name, Number(line.slice(space + 1).replace('+Inf', 'Infinity')))
  }
  return series
}

/** The one series of `metric` whose labels include `labels`; undefined when there is none. */
export function seriesValue(text: string, metric: string, labels: Record<string, string> = {}): number | undefined {
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
  const found = [...parseSeries(text)].filter(([name]) => {
    const [bare, rest = ''] = name.split('{', 2)
    return bare === metric && wanted.every(label => `,${rest}`.includes(`,${label}`))
  })
  if (found.length > 1) throw new Error(`scrape: ${found.length} series of ${metric} fit`)
  return found[0]?.[1]
}

/** Exit code and everything that was printed. promtool has nothing to say about a good scrape. */
export function promtool(args: string[], input = ''): { status: number | null; output: string } {
  const ended = spawnSync('promtool', args, { input, encoding: 'utf8', timeout: 60_000 })
  if (ended.error !== undefined) throw ended.error
  return { status: ended.status, output: ended.stdout + ended.stderr }
}
