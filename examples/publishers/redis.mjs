// Publishes jobs to Redis:  REDIS_URL=redis://… node redis.mjs QUEUE [-]
import Redis from 'ioredis';
import { inBatches, jobs, run, withRetries } from './jobs.mjs';

// The same as the workers' BROKER_NAMESPACE.
const namespace = process.env.BROKER_NAMESPACE ?? 'dramatiq';

await run('REDIS_URL', async function* (url, queue) {
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: 10_000,
    commandTimeout: 10_000,
    maxRetriesPerRequest: 0, // withRetries() retries, and logs it
    retryStrategy: () => 100, // milliseconds until ioredis reconnects
  });
  redis.on('error', () => {}); // the commands fail with the same error
  try {
    for await (const batch of inBatches(jobs(queue), 200)) {
      yield await withRetries(async () => {
        // One RPUSH writes all jobs or none; the worker gives each job an id. ZADD is optional: it
        // wakes an idle worker at once, which otherwise checks the inbox every second. It always
        // writes the same member, so the key does not grow. MULTI runs both together.
        const replies = await redis
          .multi()
          .rpush(`${namespace}:${queue}.inbox`, ...batch)
          .zadd(`${namespace}:${queue}.wake`, 0, 'w')
          .exec();
        for (const [error] of replies) if (error) throw error;
        return batch.length;
      });
    }
  } finally {
    redis.disconnect();
  }
});
