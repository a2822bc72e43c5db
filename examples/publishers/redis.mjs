// Publishes jobs to Redis:  REDIS_URL=redis://… node redis.mjs QUEUE [-]
import Redis from 'ioredis';
import { inBatches, jobs, run, withRetries } from './jobs.mjs';

// BROKER_NAMESPACE of the workers.
const namespace = process.env.BROKER_NAMESPACE ?? 'dramatiq';

await run('REDIS_URL', async function* (url, queue) {
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: 10_000,
    commandTimeout: 10_000,
    maxRetriesPerRequest: 0, // what failed is tried again below, where it can be seen
    retryStrategy: () => 100, // ms; ioredis connects again by itself
  });
  redis.on('error', () => {}); // each command fails with it as well
  try {
    for await (const batch of inBatches(jobs(queue), 200)) {
      yield await withRetries(async () => {
        // One RPUSH, all or nothing. The worker takes it from there and gives each job an id.
        // The wake-up is optional: an idle worker looks into its inbox every second anyway;
        // with it, it starts at once. It is one member that is written over and over, so it
        // does not grow. In MULTI the two arrive together.
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
