/** A run under a sanitizer that finds nothing is worth something: it finds what was planted (planted.cc). */
import t from 'tap'
import { scratch, sparseFile, understudy } from '../support/daemon.js'

const planted = process.env['UNDERSTUDY_SANITIZED']?.includes('libtsan') === true ? 'race' : 'overflow'
const found = { race: /ThreadSanitizer: data race/, overflow: /AddressSanitizer: heap-buffer-overflow/ }[planted]

for (const plant of [planted, 'none'])
  t.test(
    `a daemon with a planted bug (${plant}) ${plant === 'none' ? 'starts' : 'is ended, and the report names it'}`,
    async t => {
      const files = scratch(t)
      const device = await sparseFile(files.path('disk.img'), 1 << 20)
      const args = ['master', '--state', files.path('m'), '--device', device, '--export', 'disk1']
      const daemon = understudy(t, 'master', [...args, '--listen', `unix:${files.path('nbd.sock')}`], {
        UNDERSTUDY_PLANT: plant,
      })
      if (plant === 'none') {
        await daemon.printed(/^understudy: ready/m)
        t.match(await daemon.stop(), { code: 0 })
      } else {
        t.not((await daemon.gone()).code, 0)
        t.match(daemon.stderr, found)
        t.match(daemon.stderr, /planted\.cc/)
      }
    },
  )
