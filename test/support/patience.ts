/**
 * Every limit of waiting for something is so many times as long as it says: a machine that stands still for seconds, or
 * gives a fifth of its time, makes no test fail. More so in a run under a sanitizer (test/support/runner.ts). What works
 * does not take longer by it.
 */
export const SLOWER = slower()

/**
 * How long to wait before the next look at what is not so yet: soon at first, then a fifth of the wait so far. A look is
 * a connection and a document on both sides, and dozens of them a second are what a machine of two cores is busy with.
 */
export const nextLookMs = (waitedMs: number): number => Math.min(150, 10 + waitedMs / 5)

function slower(): number {
  const sanitizer = process.env['UNDERSTUDY_SANITIZED']
  if (sanitizer === undefined) return 4
  return sanitizer.includes('libtsan') ? 10 : 6
}
