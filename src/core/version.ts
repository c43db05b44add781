import { createRequire } from 'node:module'
import { join } from 'node:path'

import { ROOT } from './root.js'

/** package.json's version. */
export const version: string = (createRequire(import.meta.url)(join(ROOT, 'package.json')) as { version: string })
  .version
