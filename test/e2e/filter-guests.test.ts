// timeout: 150
/** A short one of `npm run filter-guests` (test/filter-guests): rules for files under a real kernel. */
import t from 'tap'
import { layouts } from '../filter-guests/layouts.js'
import { Run } from '../filter-guests/run.js'
import { seededRandom } from '../support/history.js'

void t.test(
  'a guest works on an ext4 with rules for files: at each cut the copy is a file system with every chosen file as the master had it, also when the master is killed',
  async t => {
    const random = seededRandom(1)
    const options = { layout: layouts[0]!, seconds: 4, seed: 1, spoil: false, random }
    const run = new Run(t, { ...options, policy: 'exclude', kinds: ['rewrite', 'across', 'reuse'], faults: ['master'] })
    t.equal(await run.toItsEnd(), 0)
    t.ok(run.leftOut > 0, 'and there was something that it does not have')
  },
)
