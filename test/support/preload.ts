/** C files of this folder that stand in front of the C library in a daemon under test. */
import { execFileSync } from 'node:child_process'
import { ROOT, type Scratch } from './daemon.js'

/** Compiles test/support/NAME.c; returns LD_PRELOAD for the daemon, what is preloaded here included. */
export function preloaded(files: Scratch, name: string): string {
  const library = files.path(`${name}.so`)
  const source = `${ROOT}/test/support/${name}.c`
  execFileSync(process.env['CC'] ?? 'gcc', ['-O1', '-fPIC', '-shared', '-o', library, source, '-ldl'])
  return [process.env['LD_PRELOAD'], library].filter(Boolean).join(':')
}
