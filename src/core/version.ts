import { createRequire } from 'node:module'

/** package.json's version. */
export const version: string = (createRequire(import.meta.url)('../../package.json') as { version: string }).version
