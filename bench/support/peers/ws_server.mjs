// Node's `ws`: one send per client. Commands as of relay_under_test.py. The package is found by WS_MODULE.
import { createInterface } from 'node:readline'

const { WebSocketServer } = await import(process.env.WS_MODULE)
const HEAD = '{"event":"tick","channel":"ticks","data":"'
const TAIL = '"}'
const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false })
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const broadcast = (data) => { for (const client of server.clients) client.send(data, { binary: false }) }

const commands = {
  async tick(rounds, batch, pause, size) {
    const data = Buffer.from(HEAD + '.'.repeat(size - HEAD.length - TAIL.length - (size < 128 ? 2 : 4)) + TAIL)
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < batch; i++) broadcast(data)
      await sleep(pause / 1000)
    }
  },
  async stamped(rate, seconds) {
    const start = process.hrtime.bigint()
    const period = BigInt(Math.round(1e9 / rate))
    for (let i = 0n; i < BigInt(rate * seconds);) {
      for (; i < BigInt(rate * seconds) && start + i * period <= process.hrtime.bigint(); i++) {
        broadcast(Buffer.from(`${HEAD}T=${String(process.hrtime.bigint()).padStart(19, '0')}${'.'.repeat(130)}${TAIL}`))
      }
      await sleep(0)
    }
  },
}

server.on('listening', () => console.log('listening', server.address().port))
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...numbers] = line.split(' ')
  await commands[name](...numbers.map(Number))
  console.log('done')
}
process.exit(0)
