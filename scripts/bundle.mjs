// Makes the program out of the modules that TypeScript was compiled to: dist/cli/main.js, and dist/program/ with what is
// loaded when it is needed (the daemon, the worker of tunnels). To load some 90 modules, or a daemon's 220, one by one
// takes node longer than all that a command does.
//
// Packages stay where they are. The code is as it was, readable, with its names and comments.
import { chmod, rm } from 'node:fs/promises'
import { rollup } from 'rollup'

const build = await rollup({
  input: { main: 'dist/cli/understudy.js', worker: 'dist/transport/tunnel/worker.js' },
  external: id => !/^[./]/.test(id),
  onwarn: warning => {
    throw new Error(warning.message)
  },
})
await rm('dist/program', { recursive: true, force: true })
await build.write({
  dir: 'dist',
  // Two levels below the root, as the modules are: src/core/root.ts.
  entryFileNames: ({ name }) => (name === 'main' ? 'cli/main.js' : 'program/[name].js'),
  chunkFileNames: 'program/[name].js',
  banner: ({ name, isEntry }) => (isEntry && name === 'main' ? '#!/usr/bin/env node' : ''),
  // Else what the daemon shares with the commands would lie in main.js, which is not done before the daemon is.
  manualChunks: id => {
    if (id.includes('/dist/core/')) return 'core'
    return { '/cli/program.js': 'commands', '/daemon/main.js': 'daemon' }[id.replace(/^.*\/dist(?=\/)/, '')]
  },
})
await build.close()
await chmod('dist/cli/main.js', 0o755)
