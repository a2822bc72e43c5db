// The jobs of bench/started.py and bench/started_sinks.py for BullMQ.
//
//     node worker.js fill     sends the jobs
//     node worker.js          runs them
import { createHmac, randomUUID } from 'node:crypto'
import { createReadStream, openSync, writeSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Queue, Worker } from 'bullmq'

const env = process.env
const { hostname, port } = new URL(env.BENCH_URL)
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null }
const AT_ONCE = 500

async function * jobs () {
  if (env.BENCH_JOBS) {
    const lines = createInterface({ input: createReadStream(env.BENCH_JOBS) })
    for await (const line of lines) yield { name: 'job', data: JSON.parse(line) }
  } else {
    const job = { name: 'job', data: JSON.parse(env.BENCH_JOB) }
    for (let left = Number(env.BENCH_COUNT); left > 0; left--) yield job
  }
}

async function fill () {
  const queue = new Queue(env.BENCH_QUEUE, { connection })
  let some = []
  for await (const job of jobs()) {
    some.push(job)
    if (some.length === AT_ONCE) {
      await queue.addBulk(some)
      some = []
    }
  }
  await queue.addBulk(some)
  await queue.close()
}

// A job with one system call, which also counts it.
function call () {
  const done = openSync(env.BENCH_DONE, 'a')
  return async () => writeSync(done, '.')
}

// A webhook, signed as Standard Webhooks says, on kept connections.
async function webhooks () {
  const { Agent, request } = await import('undici')
  const dispatcher = new Agent({ connections: Number(env.BENCH_CONCURRENCY) })
  return async ({ data: { url, body, secret } }) => {
    const id = `msg_${randomUUID()}`
    const now = Math.floor(Date.now() / 1000)
    const text = JSON.stringify(body)
    const key = Buffer.from(secret.slice('whsec_'.length), 'base64')
    const signature = createHmac('sha256', key).update(`${id}.${now}.${text}`).digest('base64')
    const answer = await request(url, {
      method: 'POST',
      dispatcher,
      body: text,
      headersTimeout: 10_000,
      headers: {
        'content-type': 'application/json',
        'webhook-id': id,
        'webhook-timestamp': String(now),
        'webhook-signature': `v1,${signature}`
      }
    })
    await answer.body.dump()
    if (answer.statusCode >= 300) throw new Error(`the receiver answered ${answer.statusCode}`)
  }
}

// Events of all running jobs, inserted together; each job ends when its event is stored.
async function events () {
  const { createClient } = await import('@clickhouse/client')
  const client = createClient({ url: env.BENCH_CLICKHOUSE, database: env.CLICKHOUSE_DATABASE })
  let waiting = []
  const flush = async () => {
    const taken = waiting
    waiting = []
    try {
      const values = taken.map(({ event }) => ({
        event_id: event.eventId,
        type: event.type,
        form_id: event.formId,
        session_id: event.sessionId,
        occurred_at: event.occurredAt.slice(0, 19).replace('T', ' '),
        properties: JSON.stringify(event.properties)
      }))
      await client.insert({ table: 'events', values, format: 'JSONEachRow' })
      taken.forEach(({ resolve }) => resolve())
    } catch (error) {
      taken.forEach(({ reject }) => reject(error))
    }
  }
  return ({ data: event }) => new Promise((resolve, reject) => {
    waiting.push({ event, resolve, reject })
    if (waiting.length === Number(env.BENCH_CONCURRENCY)) flush()
    else if (waiting.length === 1) setTimeout(() => waiting.length && flush(), 20)
  })
}

if (process.argv[2] === 'fill') {
  await fill()
} else {
  const handler = await { webhooks, events }[env.BENCH_KIND]?.() ?? call()
  // Jobs that are done are removed, as formrelay and Dramatiq do.
  const concurrency = Number(env.BENCH_CONCURRENCY)
  new Worker(env.BENCH_QUEUE, handler, { connection, concurrency, removeOnComplete: { count: 0 } })
}
