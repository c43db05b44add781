/** Where everything of a daemon is to be found, one line each. */
import type { HostPort, ListenAddress } from '../core/units.js'
import { formatHostPort, nbdUri } from '../core/units.js'
import type { Daemon } from './daemon.js'

export function addressesOf(daemon: Daemon, listening: ListenAddress[], metrics: HostPort | undefined): string[] {
  const { nbd } = daemon.configuration
  const lines = daemon
    .groups()
    .flatMap(group => group.exports())
    .flatMap(({ name }) => listening.map(address => `export ${name} at ${nbdUri(address, name, nbd.tls?.required)}`))
  const { standby } = daemon
  const listen = standby?.config.listen
  if (standby !== undefined && listen !== undefined)
    lines.push(`standby ${daemon.id}@${formatHostPort({ host: listen.host, port: standby.port })}`)
  if (metrics !== undefined) lines.push(`metrics at http://${formatHostPort(metrics)}/metrics`)
  return lines
}
