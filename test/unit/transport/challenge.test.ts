import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto'
import t from 'tap'
import { idOfKey } from '../../../src/core/endorsement.js'
import { answerChallenge, newChallenge, provenIds } from '../../../src/transport/tunnel/challenge.js'

const server = 'a'.repeat(64)
const keys: KeyObject[] = [
  generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).privateKey,
  generateKeyPairSync('ed25519').privateKey,
]
const pemOf = (key: KeyObject): string => key.export({ format: 'pem', type: 'pkcs8' }).toString()
const idOf = (pem: string): string =>
  idOfKey(createPublicKey(createPrivateKey(pem)).export({ format: 'der', type: 'spki' }))

t.test('an answer proves the key that signed it, to this server and for this challenge only (G6)', async t => {
  for (const pem of keys.map(pemOf)) {
    const challenge = newChallenge('')
    const answer = answerChallenge(challenge, pem, server)
    t.same(provenIds(answer, challenge, server), [idOf(pem)])
    t.same(provenIds(answer, newChallenge(''), server), [], 'another challenge')
    t.same(provenIds(answer, challenge, 'b'.repeat(64)), [], 'another server')
    const other = answerChallenge(challenge, pemOf(generateKeyPairSync('ed25519').privateKey), server)
    t.same(provenIds({ ...answer, key: other.key }, challenge, server), [], "another's key")
  }
})

t.test('garbage proves nothing', async t => {
  for (const answer of [undefined, null, 7, {}, { key: 'x', signature: 'y' }, { key: '', signature: '' }])
    t.same(provenIds(answer, newChallenge(''), server), [])
  t.throws(() => answerChallenge({ nonce: 'short' }, pemOf(keys[0] as KeyObject), server), /no challenge/)
})
