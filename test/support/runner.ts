/**
 * Runs every test of the project: test/**\/*.test.ts (compiled to dist-test/) and test/native/*.cc (built by its
 * Makefile), each file in a process group of its own.
 *
 *   test/run [--jobs N] [--sanitize address|thread] [--verbose] [FILTER ...]     FILTER: a part of a file's name
 *
 * A file says in its first lines what it needs: `// timeout: 240` (seconds; 120 if it says nothing), `// serial` (it
 * measures time, or fills the machine: nothing else runs beside it).
 *
 * Fails on: a failed test, a file that crashes, is cut off, takes too long or leaves a process behind, no test at all,
 * and a skip that test/allowed-skips.txt does not list. The last line is `N passed, N failed, N skipped`.
 */
import { execFile, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { cpuOfEnded, type Ended, runGroup } from './process-group.js'
import { parseTap, type TestResult } from './tap-results.js'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const SECONDS_DEFAULT = 120
/** How many of the files that took most CPU are listed at the end. */
const COSTLY_LISTED = 15
/**
 * The native tests make and drop images of megabytes again and again; each time the kernel clears their pages anew, which
 * is a third of all CPU that they take. So: large pages, and what was freed is kept. (A sanitizer has a malloc of its own.)
 */
const KEPT_MEMORY = {
  GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1073741824',
}
// One more than there are cores: most tests wait for daemons, clocks and disks for most of their time.

interface TestFile {
  /** As it lies in the tree: test/... */
  name: string
  command: string
  args: string[]
  env?: NodeJS.ProcessEnv
  seconds: number
  serial: boolean
}

interface FileReport {
  file: TestFile
  results: TestResult[]
  seconds: number
  cpuSeconds: number
  stderr: string
}

const { values: options, positionals: filters } = parseArgs({
  options: {
    jobs: { type: 'string', default: String(Math.min(4, availableParallelism() + 1)) },
    /** The native tests, and the addon of the daemons of the others, are built with a sanitizer. */
    sanitize: { type: 'string', default: '' },
    verbose: { type: 'boolean', default: false },
  },
  allowPositionals: true,
})

process.chdir(ROOT)
process.exitCode = await main()

async function main(): Promise<number> {
  const wanted = (name: string): boolean => filters.length === 0 || filters.some(filter => name.includes(filter))
  if (options.sanitize !== '') await sanitizeDaemons()
  const compiled = compiledTests(wanted)
  const serial = compiled.filter(file => file.serial)
  // The longest first, so that the end is not one long file beside an idle core.
  const queue = compiled.filter(file => !file.serial).sort((a, b) => b.seconds - a.seconds)
  // The native ones are built beside the first of the others.
  const built = nativeTests(wanted).then(files => {
    queue.push(...files.filter(file => !file.serial))
    queue.sort((a, b) => b.seconds - a.seconds)
    serial.push(...files.filter(file => file.serial))
  })
  const reports: FileReport[] = []
  const next = async (): Promise<TestFile | undefined> => queue.shift() ?? built.then(() => queue.shift())
  const lane = async (): Promise<void> => {
    for (let file = await next(); file !== undefined; file = await next()) reports.push(await runFile(file))
  }
  await Promise.all(Array.from({ length: Number(options.jobs) }, lane))
  for (const file of serial) reports.push(await runFile(file))
  return summarize(reports)
}

// ---- what there is ---------------------------------------------------------------------------------------------------

function compiledTests(wanted: (name: string) => boolean): TestFile[] {
  return readdirSync('test', { recursive: true })
    .map(name => `test/${String(name)}`)
    .filter(name => name.endsWith('.test.ts') && wanted(name))
    .filter(name => options.sanitize !== '' || !name.startsWith('test/sanitize/'))
    .sort()
    .map(name => ({
      name,
      command: process.execPath,
      args: ['--enable-source-maps', `dist-test/${name.replace(/\.ts$/, '.js')}`],
      ...needs(name),
    }))
}

async function nativeTests(wanted: (name: string) => boolean): Promise<TestFile[]> {
  const names = readdirSync('test/native').filter(name => name.endsWith('.cc') && wanted(`test/native/${name}`))
  if (names.length === 0) return []
  const programs = names.map(name => `${nativeFolder()}/${name.replace(/\.cc$/, '')}`)
  const made = await build(programs)
  // A program that could not be built fails below, as a file that cannot be started.
  if (!made.good) console.log(`the build of test/native failed:\n${made.output}`)
  return names.sort().map(name => {
    const program = `${nativeFolder()}/${name.replace(/\.cc$/, '')}`
    const path = `test/native/${name}`
    return {
      name: path,
      command: made.good || existsSync(program) ? program : 'false',
      args: [],
      env: KEPT_MEMORY,
      ...needs(path),
    }
  })
}

function nativeFolder(): string {
  return `dist-test/native${options.sanitize === '' ? '' : `-${options.sanitize}`}`
}

async function build(targets: string[]): Promise<{ good: boolean; output: string }> {
  const sanitize = options.sanitize === '' ? [] : [`SANITIZE=${options.sanitize}`]
  const make = [
    'make',
    '-s',
    '-k',
    '-f',
    'test/native/Makefile',
    `-j${availableParallelism()}`,
    ...sanitize,
    ...targets,
  ]
  const started = performance.now()
  try {
    const building = promisify(execFile)('nice', make, { maxBuffer: 64 << 20 })
    building.child.on('exit', () => {
      const seconds = (performance.now() - started) / 1000
      console.log(`built ${targets.length} of test/native (${seconds.toFixed(1)} s, CPU ${cpuOfEnded().toFixed(1)} s)`)
    })
    const { stdout, stderr } = await building
    return { good: true, output: stdout + stderr }
  } catch (error) {
    const { stdout = '', stderr = String(error) } = error as { stdout?: string; stderr?: string }
    return { good: false, output: stdout + stderr }
  }
}

/** test/support/daemon.ts starts them with what is found here. */
async function sanitizeDaemons(): Promise<void> {
  const addon = `${nativeFolder()}/understudy.node`
  const made = await build([addon])
  if (!made.good) throw new Error(`the build of ${addon} failed:\n${made.output}`)
  const library = { address: 'libasan.so', thread: 'libtsan.so' }[options.sanitize]
  if (library === undefined) throw new Error(`--sanitize ${options.sanitize}: address or thread`)
  const found = spawnSync(process.env['CXX'] ?? 'g++', [`-print-file-name=${library}`], { encoding: 'utf8' })
  const env: Record<string, string> = {
    UNDERSTUDY_ADDON: `${ROOT}${addon}`,
    // The addon too: ThreadSanitizer finds names only in what was there when it first looked for one, which may be for a
    // report about node itself, from before node loads the addon. Then neither are our reports readable, nor suppressed.
    LD_PRELOAD: `${found.stdout.trim()}:${ROOT}${addon}`,
    // Node itself is not built for it, and frees little of what it has at its end.
    ASAN_OPTIONS: 'detect_leaks=0:halt_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1',
    TSAN_OPTIONS: `${process.env['TSAN_OPTIONS'] ?? 'halt_on_error=1'}:suppressions=${ROOT}test/sanitize/tsan-suppressions.txt`,
  }
  process.env['UNDERSTUDY_SANITIZED'] = JSON.stringify(env)
}

function needs(path: string): { seconds: number; serial: boolean } {
  const head = readFileSync(path, 'utf8').split('\n', 12).join('\n')
  const seconds = /^\/\/ timeout: (\d+)$/m.exec(head)?.[1]
  // Far beyond what it says, which is for a machine of its own: one that others use, too, makes no test fail.
  const slower =
    options.sanitize !== ''
      ? ({ address: 6 }[options.sanitize] ?? 10)
      : process.env['UNDERSTUDY_TRANSPORT'] === undefined
        ? 3
        : 4
  return {
    seconds: slower * (seconds === undefined ? SECONDS_DEFAULT : Number(seconds)),
    serial: /^\/\/ serial$/m.test(head),
  }
}

// ---- running one -----------------------------------------------------------------------------------------------------

async function runFile(file: TestFile): Promise<FileReport> {
  const ended = await runGroup(file.command, file.args, {
    seconds: file.seconds,
    // tap's own limit comes first: it knows which test hangs.
    env: {
      ...process.env,
      ...file.env,
      TAP_TIMEOUT: String(Math.max(1, file.seconds - 5)),
      TAP_RCFILE: '/dev/null',
      NO_COLOR: '1',
    },
  })
  const results = parseTap(ended.stdout)
  const counted = results.filter(result => result.path.length > 0)
  for (const reason of fileFailures(file, ended, results)) results.push({ path: [], outcome: 'failed', detail: reason })
  if (counted.length === 0 && results.length === 0)
    results.push({ path: [], outcome: 'failed', detail: 'no test in this file' })
  const report = { file, results, seconds: ended.seconds, cpuSeconds: ended.cpuSeconds, stderr: ended.stderr }
  print(report, ended)
  return report
}

function fileFailures(file: TestFile, ended: Ended, results: TestResult[]): string[] {
  const failures: string[] = []
  if (ended.timedOut) failures.push(`killed after ${file.seconds} s`)
  else if (ended.signal !== null) failures.push(`ended by ${ended.signal}`)
  else if (ended.code !== 0 && !results.some(result => result.outcome === 'failed')) {
    failures.push(`exit code ${ended.code} although no test failed`)
  }
  if (ended.leftBehind.length > 0) failures.push(`left processes behind: ${ended.leftBehind.join(', ')}`)
  return failures
}

function count(results: { outcome: TestResult['outcome'] }[], outcome: TestResult['outcome']): number {
  return results.filter(result => result.outcome === outcome).length
}

function print({ file, results, seconds, cpuSeconds, stderr }: FileReport, ended: Ended): void {
  const failed = results.filter(result => result.outcome === 'failed')
  const skipped = count(results, 'skipped')
  const parts = [`${count(results, 'passed')} passed`]
  if (failed.length > 0) parts.push(`${failed.length} failed`)
  if (skipped > 0) parts.push(`${skipped} skipped`)
  console.log(
    `${failed.length === 0 ? 'ok    ' : 'FAILED'} ${file.name}: ${parts.join(', ')} (${seconds.toFixed(1)} s, CPU ${cpuSeconds.toFixed(1)} s)`,
  )
  for (const result of failed) {
    console.log(`    not ok: ${result.path.length === 0 ? file.name : result.path.join(' > ')}`)
    console.log(indent(result.detail, 8))
  }
  if (failed.length > 0 && stderr !== '') console.log(`    stderr, its end:\n${indent(stderr.slice(-6000), 8)}`)
  if (options.verbose) console.log(indent(ended.stdout, 4))
}

function indent(text: string, columns: number): string {
  return text.trimEnd().replace(/^/gm, ' '.repeat(columns))
}

// ---- the end ---------------------------------------------------------------------------------------------------------

function summarize(reports: FileReport[]): number {
  if (reports.length > 1) printCostly(reports)
  const allowed = allowedSkips()
  const all = reports.flatMap(({ file, results }) => results.map(result => ({ file, ...result })))
  const skipped = all.filter(result => result.outcome === 'skipped')
  let refused = 0
  if (skipped.length > 0) console.log('skipped:')
  for (const skip of skipped) {
    const title = `${skip.file.name}: ${skip.path.join(' > ')}: ${skip.detail}`
    const reason = allowed.find(({ part }) => title.includes(part))?.reason
    console.log(
      `    ${title} (${reason === undefined ? 'NOT in test/allowed-skips.txt: this fails the run' : `allowed: ${reason}`})`,
    )
    if (reason === undefined) refused += 1
  }
  const passed = count(all, 'passed')
  let failed = count(all, 'failed') + refused
  if (passed + failed + skipped.length === 0) {
    console.log(`no test was found${filters.length > 0 ? ` whose file's name contains ${filters.join(' or ')}` : ''}`)
    failed = 1
  }
  console.log(`${passed} passed, ${failed} failed, ${skipped.length - refused} skipped`)
  return failed === 0 ? 0 : 1
}

/** Where the machine's time went: with a few cores it is CPU that a run waits for. */
function printCostly(reports: FileReport[]): void {
  const all = reports.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0)
  console.log(`CPU ${all.toFixed(0)} s in ${reports.length} files; most of it:`)
  for (const { file, seconds, cpuSeconds } of reports
    .toSorted((a, b) => b.cpuSeconds - a.cpuSeconds)
    .slice(0, COSTLY_LISTED))
    console.log(`    ${cpuSeconds.toFixed(1).padStart(6)} s  ${file.name} (${seconds.toFixed(1)} s)`)
}

/** Lines `part of "file: title: reason" | why that is acceptable`. */
function allowedSkips(): { part: string; reason: string }[] {
  return readFileSync('test/allowed-skips.txt', 'utf8')
    .split('\n')
    .filter(line => line.trim() !== '' && !line.startsWith('#'))
    .map(line => {
      const [part = '', reason = ''] = line.split('|').map(field => field.trim())
      if (part === '' || reason === '') throw new Error(`test/allowed-skips.txt: write "PART | REASON", not: ${line}`)
      return { part, reason }
    })
}
