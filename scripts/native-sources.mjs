// The C++ files of the addon, one a line, for binding.gyp. Sorted, so that the order of linking never changes by itself.
import { readdirSync } from 'node:fs'

const root = new URL('..', import.meta.url)
const sources = readdirSync(new URL('native', root), { recursive: true })
  .map(String)
  .filter(name => name.endsWith('.cc'))
  .sort()
for (const name of sources) console.log(`native/${name}`)
