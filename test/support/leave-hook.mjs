// Loaded into a daemon by NODE_OPTIONS: ends it from the inside, the way a bug would. SIGUSR2: process.exit(7).
// SIGWINCH: an exception that nobody catches.
process.on('SIGUSR2', () => {
  process.exit(7)
})
process.on('SIGWINCH', () => {
  throw new Error('thrown by the test')
})
