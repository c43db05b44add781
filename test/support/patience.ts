/**
 * Every limit of waiting for something is so many times as long as it says: a machine that stands still for seconds, or
 * gives a fifth of its time, makes no test fail. More so in a run under a sanitizer (test/support/runner.ts). What works
 * does not take longer by it.
 */
export const SLOWER = slower()

function slower(): number {
  const sanitizer = process.env['UNDERSTUDY_SANITIZED']
  if (sanitizer === undefined) return 4
  return sanitizer.includes('libtsan') ? 10 : 6
}
