// Imports point one way: cli -> daemon -> master | standby | nbd | filter | metrics | recovery -> transport -> native -> core.
const layers = [
  ['cli'],
  ['daemon'],
  ['master', 'standby', 'nbd', 'filter', 'metrics', 'recovery'],
  ['transport'],
  ['native'],
  ['core'],
]

const upward = layers.flatMap((names, level) => {
  const above = layers.slice(0, level).flat()
  if (above.length === 0) return []
  return [
    {
      name: `no-import-upwards-from-${names.join('-')}`,
      comment: `${names.join(', ')} may not know ${above.join(', ')}`,
      severity: 'error',
      from: { path: `^src/(${names.join('|')})/` },
      to: { path: `^src/(${above.join('|')})/` },
    },
  ]
})

module.exports = {
  forbidden: [
    ...upward,
    {
      name: 'no-circular',
      severity: 'error',
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'the-addon-is-loaded-in-one-place',
      comment: 'src/native/binding.ts is the only file that loads it',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/native/binding[.]ts$' },
      to: { path: '[.]node$' },
    },
    {
      name: 'no-test-code-in-the-product',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(test|bench)/' },
    },
    {
      name: 'not-to-dev-dependencies',
      comment: 'what the daemon loads must be a dependency; the dashboard is generated at development time',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/metrics/(dashboard|generate|.*panel.*)[.]ts$' },
      to: { dependencyTypes: ['npm-dev'], pathNot: '^node_modules/@types/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.build.json' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
  },
}
