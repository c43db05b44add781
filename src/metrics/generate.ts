/** npm run dashboards: writes what is made from code: the Grafana dashboard, the alert rules and docs/metrics.md. */
import { mkdirSync, realpathSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { alertRulesText } from './alerts.js'
import { buildDashboard } from './dashboard.js'
import { metricsDocument } from './documentation.js'

/** Path within the repository, and text. */
export function generatedFiles(): Record<string, string> {
  return {
    'dashboards/understudy.json': JSON.stringify(buildDashboard(), null, 2) + '\n',
    'dashboards/alerts.yml': alertRulesText(),
    'docs/metrics.md': metricsDocument(),
  }
}

function main(): void {
  const root = fileURLToPath(new URL('../../', import.meta.url))
  for (const [path, text] of Object.entries(generatedFiles())) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
    process.stdout.write(`wrote ${path}\n`)
  }
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) main()
