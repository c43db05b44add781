import { createRequire } from 'node:module'

/** package.json's version. */
export const programVersion: string = (createRequire(import.meta.url)('../../package.json') as { version: string })
  .version
export const version = programVersion
