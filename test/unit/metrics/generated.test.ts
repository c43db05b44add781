import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { alertRules } from '../../../src/metrics/alerts.js'
import { buildDashboard } from '../../../src/metrics/dashboard.js'
import { metricDefinitions } from '../../../src/metrics/definitions.js'
import { generatedFiles } from '../../../src/metrics/generate.js'
import { createMetricsRegistry } from '../../../src/metrics/registry.js'
import { promtool } from '../../support/prometheus.js'
import { FakeSource } from './fake-source.js'

const root = process.cwd()

/** Metrics an expression names, with the labels it selects or groups by. */
function metricsIn(expression: string): { name: string; labels: string[] }[] {
  return [...expression.matchAll(/\b(understudy_\w+)(?:\{([^}]*)\})?/g)].map(match => ({
    name: match[1] ?? '',
    labels: [...(match[2] ?? '').matchAll(/(\w+)\s*[=!]~?/g)].map(label => label[1] ?? ''),
  }))
}

const expressions = (): string[] => {
  const targets = (buildDashboard().panels ?? []).flatMap(panel => ('targets' in panel ? (panel.targets ?? []) : []))
  return targets.map(target => (target as { expr?: string }).expr ?? '')
}

t.test('the committed dashboard, alert rules and docs/metrics.md are what npm run dashboards writes', async t => {
  for (const [path, text] of Object.entries(generatedFiles())) {
    t.equal(readFileSync(join(root, path), 'utf8'), text, `${path}: run npm run dashboards and commit it`)
  }
})

t.test('dashboard and alert rules name only metrics and labels that exist', async t => {
  const known = new Map<string, readonly string[]>()
  for (const { name, type, labels } of metricDefinitions()) {
    if (type !== 'histogram') known.set(name, labels)
    else for (const part of ['bucket', 'sum', 'count']) known.set(`${name}_${part}`, labels)
  }
  const used = [...expressions(), ...alertRules.map(rule => rule.expr)].flatMap(metricsIn)
  t.ok(used.length > 60)
  for (const { name, labels } of used) {
    t.ok(known.has(name), `${name} exists`)
    for (const label of labels) t.ok(known.get(name)?.includes(label), `${name} has label ${label}`)
  }
})

t.test('every panel has a title, a description and a query that Prometheus can parse', async t => {
  const text = ['groups:', '  - name: panels', '    rules:']
  for (const [index, expression] of expressions().entries()) {
    const plain = expression.replaceAll('$__rate_interval', '1m').replace(/\$(group|volume)/g, '.*')
    text.push(`      - record: panel:${index}`, `        expr: ${JSON.stringify(plain)}`)
  }
  const file = join(t.testdir({ 'panels.yml': text.join('\n') + '\n' }), 'panels.yml')
  const { status, output } = promtool(['check', 'rules', file])
  t.equal(status, 0, output)
  const panels = (buildDashboard().panels ?? []).filter(panel => panel.type !== 'row')
  t.ok(panels.length >= 20)
  for (const panel of panels) t.ok('targets' in panel && panel.title && panel.description, `panel ${panel.title}`)
  const places = panels.map(panel => JSON.stringify(panel.gridPos))
  t.equal(new Set(places).size, places.length, 'no two panels lie on each other')
})

t.test('docs/metrics.md lists every metric that a scrape has, with its type and help', async t => {
  const document = readFileSync(join(root, 'docs/metrics.md'), 'utf8')
  const text = await createMetricsRegistry(new FakeSource()).scrape()
  const types = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)]
  t.equal(types.length, metricDefinitions().length)
  for (const [, name, type] of types) t.ok(document.includes(`| \`${name}\` | ${type} |`), String(name))
})

t.test('promtool accepts the alert rules', async t => {
  const { status, output } = promtool(['check', 'rules', join(root, 'dashboards/alerts.yml')])
  t.equal(status, 0, output)
  t.match(output, `SUCCESS: ${alertRules.length} rules found`)
})

t.test('each alert fires in one case and is silent in another, by promtool test rules', async t => {
  const cases = readFileSync(join(root, 'dashboards/alerts.test.yml'), 'utf8')
  for (const { alert } of alertRules) {
    const short = alert.replace('Understudy', '')
    t.ok(cases.includes(`name: ${short} fires`), `${alert}: a case where it fires`)
    t.ok(cases.includes(`name: '${short} is silent: `), `${alert}: a case where it is silent`)
  }
  t.equal(cases.match(/exp_alerts: \[\]/g)?.length, alertRules.length, 'the silent cases expect no alert')
  t.equal(cases.match(/exp_labels:/g)?.length, alertRules.length, 'the firing cases expect one')
  const { status, output } = promtool(['test', 'rules', join(root, 'dashboards/alerts.test.yml')])
  t.equal(status, 0, output)
})
