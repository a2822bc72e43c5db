// The job of bench/started.py for BullMQ: makes one system call, which also counts it.
//
//     node worker.js fill     sends the jobs
//     node worker.js          runs them
import { openSync, writeSync } from 'node:fs'
import { Queue, Worker } from 'bullmq'

const { BENCH_URL, BENCH_QUEUE, BENCH_COUNT, BENCH_JOB, BENCH_DONE, BENCH_CONCURRENCY } = process.env
const { hostname, port } = new URL(BENCH_URL)
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null }
const AT_ONCE = 500

if (process.argv[2] === 'fill') {
  const queue = new Queue(BENCH_QUEUE, { connection })
  const job = { name: 'job', data: JSON.parse(BENCH_JOB) }
  for (let left = Number(BENCH_COUNT); left > 0; left -= AT_ONCE) {
    await queue.addBulk(Array.from({ length: Math.min(left, AT_ONCE) }, () => job))
  }
  await queue.close()
} else {
  const done = openSync(BENCH_DONE, 'a')
  const concurrency = Number(BENCH_CONCURRENCY)
  // Jobs that are done are removed, as formrelay and Dramatiq do.
  const options = { connection, concurrency, removeOnComplete: { count: 0 } }
  new Worker(BENCH_QUEUE, async () => writeSync(done, '.'), options)
}
