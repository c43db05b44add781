/** Rules for files: what they match, and what is left out of a listing that says the worst. */
import fc from 'fast-check'
import t from 'tap'
import { compileFiles, largestMax } from '../../src/filter/compile-files.js'
import type { CompiledFiles } from '../../src/filter/compile-files.js'
import { parseFileRules } from '../../src/filter/file-rules.js'
import type { FileListing, FileSystemContent } from '../../src/native/binding.js'

interface MadeFile {
  paths: string[]
  /** [start, end) in bytes. */
  extents?: [number, number][]
  held?: number
}

/** A file system with these files, as the addon tells it. */
function made(files: MadeFile[], other: Partial<FileSystemContent & FileListing> = {}): FileSystemContent {
  const names: number[] = []
  const add = (text: string): [number, number] => {
    const start = names.length
    names.push(...Buffer.from(text))
    return [start, names.length]
  }
  const directories = [[0, 0, 0]]
  const known = new Map([['', 0]])
  const directory = (path: string): number => {
    const before = known.get(path)
    if (before !== undefined) return before
    const cut = path.lastIndexOf('/')
    const parent = directory(path.slice(0, cut))
    directories.push([parent, ...add(path.slice(cut + 1))])
    known.set(path, directories.length - 1)
    return directories.length - 1
  }
  const links: number[][] = []
  const numbers = files.map(({ paths, extents = [], held = 0 }, file) => {
    const bytes = extents.reduce((sum, [start, end]) => sum + end - start, 0)
    const first = links.length
    for (const path of paths) {
      const cut = path.lastIndexOf('/')
      links.push([file, directory(path.slice(0, cut)), ...add(path.slice(cut + 1))])
    }
    return [bytes, bytes, 0, held, first, paths.length]
  })
  const extents = files
    .flatMap(({ extents = [], held = 0 }, file) =>
      held === 0 ? extents.map(([start, end]) => [start, end - start, file]) : [],
    )
    .sort((a, b) => (a[0] ?? 0) - (b[0] ?? 0))
  const { partition = 1, unread = '', problems = 0, journalPending = false, namelessFiles = 0 } = other
  const { journalUnread = '' } = other
  return {
    ...{
      partition,
      logicalVolume: '',
      kind: 'ext4',
      label: '',
      uuid: '',
      sizeBytes: 1 << 20,
      blockBytes: 4096,
      unread,

      locatedBy: new Float64Array(),
    },
    listing: {
      files: Float64Array.from(numbers.flat()),
      links: Uint32Array.from(links.flat()),
      directories: Uint32Array.from(directories.flat()),
      names: Uint8Array.from(names),
      extents: Float64Array.from(extents.flat()),
      ...{ namelessFiles, journalPending, journalUnread, problems, firstProblem: problems > 0 ? 'inode 12' : '' },
    },
  }
}

/** What is left out, by offset, joined. */
function spans(leftOut: CompiledFiles['leftOut'], contents: readonly FileSystemContent[]): [number, number][] {
  const all = contents.flatMap(({ listing }, index) => {
    const extents = [...(listing?.extents ?? [])]
    return extents.flatMap((offset, at): [number, number][] =>
      at % 3 === 0 && (leftOut[index]?.[extents[at + 2] ?? 0] ?? 0) > 0
        ? [[offset, offset + (extents[at + 1] ?? 0)]]
        : [],
    )
  })
  const joined: [number, number][] = []
  for (const [start, end] of all.sort((a, b) => a[0] - b[0])) {
    const last = joined.at(-1)
    if (last?.[1] === start) last[1] = end
    else joined.push([start, end])
  }
  return joined
}

t.test(
  'a glob is an absolute path inside a file system; hidden files, braces and a partition are understood',
  async t => {
    const matches = (glob: string, path: string): boolean => parseFileRules([glob], [])[0]?.matches(path) ?? false
    t.ok(matches('/var/tmp/**', '/var/tmp/a'))
    t.ok(matches('/var/tmp/**', '/var/tmp/deep/.hidden/a'))
    t.notOk(matches('/var/tmp/**', '/var/tmpfile'))
    t.notOk(matches('/var/tmp/*', '/var/tmp/deep/a'))
    t.ok(matches('/**/*.{iso,img}', '/home/.cache/x.img'))
    t.ok(matches('/!a', '/!a'), 'an exclamation mark is one')
    t.ok(matches('/a b\nc', '/a b\nc'))
    t.equal(parseFileRules(['partition=3:/swap'], [])[0]?.partition, 3)
    for (const [glob, message] of [
      ['var/tmp/**', /absolute path/],
      ['', /absolute path/],
      ['partition=0:/a', /count from 1/],
      ['partition=2:a', /absolute path/],
      ['/' + 'x'.repeat(2000), /longer/],
    ] as const)
      t.throws(() => parseFileRules([], [glob]), { exitCode: 2, message })
    t.throws(() => parseFileRules(Array<string>(101).fill('/a'), []), { exitCode: 2, message: /101 rules/ })
  },
)

t.test('what a rule matches is left out; others, and files that are held, are not', async t => {
  const content = made([
    { paths: ['/var/tmp/a'], extents: [[4096, 8192], [16384, 20480]] }, // prettier-ignore
    { paths: ['/var/tmp/b'], extents: [[8192, 12288]] },
    { paths: ['/srv/c'], extents: [[12288, 16384]] },
    { paths: ['/var/tmp/held'], extents: [[20480, 24576]], held: 64 },
    { paths: ['/var/tmp/empty'] },
  ])
  const { account, leftOut } = await compileFiles(parseFileRules(['/var/tmp/**', '/none'], []), [content])
  t.strictSame(spans(leftOut, [content]), [[4096, 12288], [16384, 20480]]) // prettier-ignore
  t.match(account.rules, [
    { rule: '/var/tmp/**', kind: 'exclude', files: 4, bytes: 12288, heldFiles: 1, heldBytes: 4096 },
    { rule: '/none', files: 0, bytes: 0 },
  ])
  t.match(account.rules[0]?.largest[0], { path: '/var/tmp/a', bytes: 8192 })
  t.match(account.fileSystems, [
    { files: 5, fileBytes: 20480, leftOutFiles: 3, leftOutBytes: 12288, replicatedBecause: '' },
  ])
})

t.test(
  'what leaves a file out is told: the first rule that does, by any name, or that none of --only-files chooses it',
  async t => {
    const content = made([
      { paths: ['/var/tmp/a'], extents: [[0, 4096]] },
      { paths: ['/srv/swap'], extents: [[4096, 8192]] },
      { paths: ['/srv/db'], extents: [[8192, 12288]] },
      { paths: ['/other'], extents: [[12288, 16384]] },
      { paths: ['/z', '/srv/swap2'], extents: [[16384, 20480]] },
    ])
    const exclude = ['partition=9:/**', '/srv/swap*', '/*/swap', '/var/tmp/**']
    const { leftOut, leftOutBy } = await compileFiles(parseFileRules(exclude, ['/srv/**']), [content])
    t.strictSame(leftOutBy, [...exclude, '/srv/**', ''])
    t.strictSame(leftOut, [Uint8Array.of(4, 2, 0, 6, 2)])
  },
)

t.test('a file is left out only when all of its names are', async t => {
  const content = made([
    { paths: ['/var/tmp/a', '/srv/a'], extents: [[0, 4096]] },
    { paths: ['/var/tmp/b', '/var/tmp/c'], extents: [[4096, 8192]] },
  ])
  const exclude = await compileFiles(parseFileRules(['/var/tmp/**'], []), [content])
  t.strictSame(spans(exclude.leftOut, [content]), [[4096, 8192]])
  t.match(exclude.account.rules[0], { files: 2, bytes: 4096, heldFiles: 1, heldBytes: 4096 })
  const both = await compileFiles(parseFileRules(['/var/tmp/**', '/srv/*'], []), [content])
  t.strictSame(spans(both.leftOut, [content]), [[0, 8192]], 'each name by a rule of its own')
  const only = await compileFiles(parseFileRules([], ['/srv/**']), [content])
  t.strictSame(spans(only.leftOut, [content]), [[4096, 8192]])
  t.match(only.account.rules[0], { kind: 'only', files: 1, bytes: 4096 })
})

t.test('only-rules leave all others out, on every partition; an exclude-rule goes before them', async t => {
  const first = made([
    { paths: ['/srv/db/a'], extents: [[0, 10]] },
    { paths: ['/srv/db/log'], extents: [[10, 20]] },
    { paths: ['/etc/b'], extents: [[20, 30]] },
  ])
  const second = made([{ paths: ['/srv/db/a'], extents: [[40, 50]] }], { partition: 2 })
  const contents = [second, first]
  const { account, leftOut } = await compileFiles(parseFileRules(['/srv/db/log'], ['partition=1:/srv/db/**']), contents)
  t.strictSame(spans(leftOut, contents), [[10, 30], [40, 50]]) // prettier-ignore
  t.match(account.rules[1], { files: 2, bytes: 10 })
})

t.test('directories in which everything is left out, whatever comes into them', async t => {
  const paths = ['/tmp/a/b/f', '/tmp/x\ny/f', '/srv/db/f', '/srv/web/f', '/home/ann/cache/deep/f', '/home/bob/f']
  const content = made(paths.map(path => ({ paths: [path] })))
  const { directories = new Uint32Array(), names = new Uint8Array() } = content.listing ?? {}
  const pathOf = (at: number): string => {
    const [parent = 0, start, end] = directories.subarray(at * 3, at * 3 + 3)
    return at === 0 ? '' : `${pathOf(parent)}/${Buffer.from(names.subarray(start, end)).toString()}`
  }
  const whole = async (exclude: string[], only: string[]): Promise<string[]> => {
    const { whole } = await compileFiles(parseFileRules(exclude, only), [content])
    return [...(whole[0] ?? [])].flatMap((number, at) => (number > 0 ? [`${pathOf(at) || '/'} ${number}`] : []))
  }
  for (const [exclude, only, expected] of [
    [['/tmp/**'], [], ['/tmp 1', '/tmp/a 1', '/tmp/a/b 1']],
    [['/tmp/a/**', '/tmp/**'], [], ['/tmp 2', '/tmp/a 2', '/tmp/a/b 2']],
    [['/home/*/cache/**'], [], ['/home/ann/cache 1', '/home/ann/cache/deep 1']],
    [['/tmp/*', '/tmp/**/f', '/t*', '/{tmp,srv}/**', 'partition=2:/tmp/**'], [], []],
    [['/**'], [], ['/ 1', '/tmp 1', '/tmp/a 1', '/tmp/a/b 1', '/srv 1', '/srv/db 1', '/srv/web 1', '/home 1', '/home/ann 1', '/home/ann/cache 1', '/home/ann/cache/deep 1', '/home/bob 1']], // prettier-ignore
    [[], ['/srv/db/**', '/home/ann/f', '/home/*/x'], ['/tmp 4', '/tmp/a 4', '/tmp/a/b 4', '/srv/web 4']],
    [[], ['/srv/db', '/tmp/?'], ['/srv/db 3', '/srv/web 3', '/home 3', '/home/ann 3', '/home/ann/cache 3', '/home/ann/cache/deep 3', '/home/bob 3']], // prettier-ignore
    [[], ['/srv/**', '/**/f'], []],
    [['/tmp/**'], ['/{tmp,srv}/**'], ['/tmp 1', '/tmp/a 1', '/tmp/a/b 1']],
  ] as const)
    t.strictSame(await whole([...exclude], [...only]), expected, `${exclude.join(' ')} ${only.join(' ')}`)
})

t.test('nothing of a file system is left out that was not read whole, or not at all', async t => {
  const rules = parseFileRules(['/**'], [])
  const files: MadeFile[] = [{ paths: ['/a'], extents: [[0, 4096]] }]
  const broken = await compileFiles(rules, [made(files, { problems: 2 })])
  t.strictSame(broken.leftOut, [undefined])
  t.match(broken.account.fileSystems[0], { replicatedBecause: /^2 things .* inode 12/, leftOutFiles: 0, files: 1 })
  t.match(broken.account.rules[0], { files: 1, heldFiles: 1 })
  const { listing: _, ...unread } = made(files, { unread: 'it is encrypted' })
  const luks = await compileFiles(rules, [unread])
  t.strictSame(luks.leftOut, [undefined])
  t.match(luks.account.fileSystems[0], { replicatedBecause: 'it is encrypted' })
  const live = await compileFiles(rules, [made(files, { journalPending: true, namelessFiles: 3 })])
  t.match(live.account.fileSystems[0]?.remarks, [/in use.*last commit/, /^3 files without a name/])
  t.strictSame(live.leftOut, [Uint8Array.of(1)])
  const late = await compileFiles(rules, [made(files, { journalPending: true, journalUnread: 'it has fast commits' })])
  t.match(late.account.fileSystems[0]?.remarks, [/in use.*written back.*fast commits/])
})

t.test('what is left out are exactly the files all of whose names match, and that are not held', async () => {
  const anyFile = fc.record({
    names: fc.uniqueArray(fc.constantFrom('/a/x', '/a/y', '/b/x', '/b/y'), { minLength: 1, maxLength: 2 }),
    held: fc.constantFrom(0, 0, 0, 64),
  })
  const property = fc.asyncProperty(
    fc.array(anyFile, { maxLength: 12 }),
    fc.array(fc.nat(12), { maxLength: 40 }),
    async (files, blocks) => {
      const list = files.map(({ names, held }, file): MadeFile => ({
        paths: names.map(name => `${name}${file}`),
        held,
        extents: blocks.flatMap((owner, block): [number, number][] => (owner === file ? [[block, block + 1]] : [])),
      }))
      const content = made(list)
      const { leftOut } = await compileFiles(parseFileRules(['/a/**'], []), [content])
      const out = new Set(
        spans(leftOut, [content]).flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i)),
      )
      return blocks.every((owner, block) => {
        const file = list[owner]
        const expected = file !== undefined && file.held === 0 && file.paths.every(path => path.startsWith('/a/'))
        return out.has(block) === expected
      })
    },
  )
  await fc.assert(property)
})

t.test('of many files the largest are named', async t => {
  const files = Array.from({ length: 5000 }, (_, i): MadeFile => ({ paths: [`/f${i}`], extents: [[i * 10_000, i * 10_000 + ((i * 7919) % 5000) + 1]] })) // prettier-ignore
  const { account } = await compileFiles(parseFileRules(['/**'], []), [made(files)])
  t.equal(account.rules[0]?.files, 5000)
  t.strictSame(account.rules[0]?.largest.map(({ bytes }) => bytes), Array.from({ length: largestMax }, (_, i) => 5000 - i)) // prettier-ignore
})
