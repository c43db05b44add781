/**
 * The alert rules as code; generate.ts writes them to dashboards/alerts.yml, dashboards/alerts.test.yml shows each one
 * firing and silent. A volume without a standby (state alone) raises none of the alerts about its protection.
 */
export interface AlertRule {
  alert: string
  expr: string
  /** How long the condition must hold, in Prometheus' notation. */
  for: string
  severity: 'critical' | 'warning'
  summary: string
  /** What to do. */
  description: string
}

const volume = '{{ $labels.volume }} ({{ $labels.role }})'
const group = '{{ $labels.group }} ({{ $labels.role }})'
const unlessAlone = 'unless ignoring (state) understudy_state{state="alone"} == 1'

const protectionRules: AlertRule[] = [
  {
    alert: 'UnderstudyDaemonDown',
    expr: 'up{job=~".*understudy.*"} == 0',
    for: '1m',
    severity: 'critical',
    summary: 'The understudy daemon at {{ $labels.instance }} cannot be scraped',
    description:
      'Look whether the daemon runs on that host; its volumes may be served without protection, or not at all.',
  },
  {
    alert: 'UnderstudyNotProtected',
    expr: `understudy_protected == 0 ${unlessAlone}`,
    for: '5m',
    severity: 'critical',
    summary: `Volume ${volume} is not protected`,
    description: 'A loss of the master would lose data. understudy status shows the state and its reason.',
  },
  {
    alert: 'UnderstudyDetached',
    expr: 'understudy_state{state="detached"} == 1',
    for: '2m',
    severity: 'critical',
    summary: `Volume ${volume} goes on without its standby`,
    description:
      'Writes only go to the dirty map. See whether the standby runs and can be reached; it resynchronises when it is back.',
  },
  {
    alert: 'UnderstudyNoLease',
    expr: 'understudy_lease_seconds{role="master"} > 0 and understudy_lease_seconds_left{role="master"} == 0',
    for: '10s',
    severity: 'critical',
    summary: `Clients of group ${group} wait: there is no lease`,
    description:
      'The standby, or the network to it, is gone, and the master may answer nobody without its word. Bring the standby back. If it is gone for good: understudy promote VOLUME --force on the master.',
  },
  {
    alert: 'UnderstudyDiverged',
    expr: 'understudy_state{state="diverged"} == 1',
    for: '0m',
    severity: 'critical',
    summary: `Volume ${volume} has diverged from its peer`,
    description:
      'Both sides were written apart from each other. Nothing is thrown away unasked: decide which side is right.',
  },
  {
    alert: 'UnderstudyStandbyUnusable',
    expr: `understudy_usable == 0 ${unlessAlone}`,
    for: '1h',
    severity: 'warning',
    summary: `The copy of volume ${volume} cannot be put on stage`,
    description: 'Its initial synchronisation is not complete. understudy status shows its rate and the time left.',
  },
  {
    alert: 'UnderstudyResyncStalled',
    expr: 'understudy_resync_total_bytes > 0 and changes(understudy_resync_done_bytes[10m]) == 0',
    for: '5m',
    severity: 'warning',
    summary: `The resynchronisation of group ${group} makes no progress`,
    description: 'Look at the link, and at the disk of the standby.',
  },
  {
    alert: 'UnderstudyFlapping',
    expr: 'increase(understudy_detaches_total{reason!="requested"}[1h]) > 3',
    for: '0m',
    severity: 'warning',
    summary: `Group ${group} keeps losing its standby ({{ $labels.reason }})`,
    description:
      'log-full: the standby or the link is too slow for the writes. peer-timeout: the standby or the network goes away. max-lag: as log-full, earlier. log-file: the disk of the log file.',
  },
]

const delayRules: AlertRule[] = [
  {
    alert: 'UnderstudyLagBytesHigh',
    expr: 'understudy_lag_bytes > 268435456',
    for: '5m',
    severity: 'warning',
    summary: `Volume ${volume} is {{ $value | humanize1024 }}B behind`,
    description: 'The standby or the link does not keep up with the writes.',
  },
  {
    alert: 'UnderstudyLagSecondsHigh',
    expr: 'understudy_lag_seconds > 60',
    for: '2m',
    severity: 'warning',
    summary: `Volume ${volume} is {{ $value | humanizeDuration }} behind`,
    description: 'The oldest write that is not yet applied on the standby is that old.',
  },
  {
    alert: 'UnderstudyLogNearlyFull',
    expr: 'understudy_log_bytes / (understudy_log_max_bytes > 0) > 0.9 unless understudy_log_file_max_bytes > 0',
    for: '2m',
    severity: 'warning',
    summary: `The log of group ${group} is {{ $value | humanizePercentage }} full`,
    description:
      'When it is full, clients wait, or the standby is detached. Look at the link and the disk of the standby, or enlarge the log.',
  },
  {
    alert: 'UnderstudyLogFileNearlyFull',
    expr: 'understudy_log_file_bytes / (understudy_log_file_max_bytes > 0) > 0.8',
    for: '0m',
    severity: 'warning',
    summary: `The log file of group ${group} is {{ $value | humanizePercentage }} full`,
    description:
      'When it is full, clients wait for a standby that is slow; one that is away loses its exact history, and what was written is compared and sent by a resynchronisation. Bring the standby back, or enlarge log_size.',
  },
  {
    alert: 'UnderstudyStagingNearlyFull',
    expr: 'understudy_standby_staged_bytes / (understudy_standby_staging_max_bytes > 0) > 0.8 unless understudy_standby_staging_full == 1',
    for: '0m',
    severity: 'warning',
    summary: `The step of group ${group} has taken {{ $value | humanizePercentage }} of its staging`,
    description:
      'At its maximum nothing more is acknowledged, and the copy stays the cut before the step. Raise staging_size on the standby (a reload is enough).',
  },
  {
    alert: 'UnderstudyBackpressure',
    expr: 'rate(understudy_backpressure_seconds_total[5m]) > 0.5',
    for: '10m',
    severity: 'warning',
    summary: `Clients of group ${group} wait for the standby`,
    description: 'The log is full for more than half of the time: the standby or the link is too slow for the writes.',
  },
  {
    alert: 'UnderstudyLinkLoss',
    expr: 'rate(understudy_link_packets_lost_total[5m]) / (rate(understudy_link_packets_sent_total[5m]) > 0) > 0.02',
    for: '5m',
    severity: 'warning',
    summary: `The link of group ${group} loses {{ $value | humanizePercentage }} of its packets`,
    description:
      'Look at the network between the hosts; a path that loses large packets calls for a smaller packet size.',
  },
]

const errorRules: AlertRule[] = [
  {
    alert: 'UnderstudyRequestErrors',
    expr: 'increase(understudy_request_errors_total[5m]) > 0',
    for: '0m',
    severity: 'warning',
    summary: `Clients of volume ${volume} get errors ({{ $labels.kind }})`,
    description: 'The log of the daemon names device, operation and errno.',
  },
  {
    alert: 'UnderstudyStandbyErrors',
    expr: 'increase(understudy_standby_errors_total[5m]) > 0 or understudy_standby_errno > 0',
    for: '0m',
    severity: 'critical',
    summary: `The standby of group ${group} has trouble with its disk`,
    description:
      'It acknowledges nothing until that is over. The log of the daemon names file and errno; a full disk is the usual case.',
  },
  {
    alert: 'UnderstudyStagingFull',
    expr: 'understudy_standby_staging_full == 1',
    for: '0m',
    severity: 'critical',
    summary: `The step of group ${group} has reached the maximum of its staging`,
    description:
      'Nothing more is acknowledged, and it does not go on by itself: raise staging_size on the standby, or give the cut up with understudy invalidate --in-place.',
  },
  {
    alert: 'UnderstudyLogFileUnusable',
    expr: 'understudy_log_file_errno > 0',
    for: '1m',
    severity: 'warning',
    summary: `The log file of group ${group} cannot be used (errno {{ $value }})`,
    description:
      'Only memory is left for the log: a longer outage ends in the dirty map and a resynchronisation. The log of the daemon names file and error; a full disk is the usual case. It is tried again by itself.',
  },
  {
    alert: 'UnderstudyUnreadable',
    expr: 'understudy_unreadable_bytes > 0',
    for: '0m',
    severity: 'critical',
    summary: `The master device of group ${group} has {{ $value | humanize1024 }}B that cannot be read`,
    description: 'The standby keeps its copy of these ranges. Replace the disk.',
  },
  {
    alert: 'UnderstudyVerifyMismatch',
    expr: 'understudy_last_verify_different_chunks - understudy_last_verify_repaired_chunks > 0',
    for: '0m',
    severity: 'critical',
    summary: `Verify found {{ $value }} chunks of volume ${volume} that differ`,
    description: 'The copy is not what the master holds. Repair it with understudy verify --repair, and find out why.',
  },
  {
    alert: 'UnderstudyVerifyTooOld',
    expr: `time() - understudy_last_verify_timestamp_seconds{role="master"} > 604800 ${unlessAlone}`,
    for: '1d',
    severity: 'warning',
    summary: `Volume ${volume} was not verified for a week`,
    description: 'Run understudy verify, or set scrub_every. A new volume has a day for its first one.',
  },
]

const daemonRules: AlertRule[] = [
  {
    alert: 'UnderstudyAttachmentWaiting',
    expr: 'understudy_attachment_connected == 0',
    for: '1m',
    severity: 'critical',
    summary: 'Whoever uses {{ $labels.device }} (volume {{ $labels.volume }}) waits',
    description:
      'understudy status says why. Beyond the --dead-timeout of the device its users get I/O errors; understudy detach gives it up.',
  },
  {
    alert: 'UnderstudyMemoryGuardPartial',
    expr: 'understudy_memory_guard{state="partial"} == 1',
    for: '0m',
    severity: 'warning',
    summary: 'The daemon at {{ $labels.instance }} may have to wait for memory that its own device is to free',
    description:
      'The kernel refused a part of the protection: the log of the daemon says which. Run it as root, with CAP_SYS_RESOURCE and CAP_IPC_LOCK.',
  },
  {
    alert: 'UnderstudyTakeoverGivenUp',
    expr: 'increase(understudy_takeovers_total{outcome="given-up"}[15m]) > 0',
    for: '0m',
    severity: 'warning',
    summary: 'A takeover of the daemon at {{ $labels.instance }} was given up',
    description:
      'The old process goes on, with its version and settings. The log of the daemon says which phase failed or was too slow.',
  },
]

export const alertRules: readonly AlertRule[] = [...protectionRules, ...delayRules, ...errorRules, ...daemonRules]

/** The rule file, as YAML. Strings are double-quoted: a JSON string is a YAML one. */
export function alertRulesText(): string {
  const lines = [
    '# Generated by npm run dashboards from src/metrics/alerts.ts.',
    'groups:',
    '  - name: understudy',
    '    rules:',
  ]
  for (const rule of alertRules) {
    lines.push(
      `      - alert: ${rule.alert}`,
      `        expr: ${JSON.stringify(rule.expr)}`,
      `        for: ${rule.for}`,
      '        labels:',
      `          severity: ${rule.severity}`,
      '        annotations:',
      `          summary: ${JSON.stringify(rule.summary)}`,
      `          description: ${JSON.stringify(rule.description)}`,
    )
  }
  return lines.join('\n') + '\n'
}
