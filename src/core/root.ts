/**
 * Where the program is installed. Found from two levels above a file, both in the modules (dist/core/root.js) and in what
 * scripts/bundle.mjs makes of them (dist/cli/main.js, dist/program/): no other file may say where it lies itself, but for
 * what lies beside it in either.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** The program, as `node MAIN ...`. */
export const MAIN = join(ROOT, 'dist/cli/main.js')
