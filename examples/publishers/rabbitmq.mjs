// Publishes jobs to RabbitMQ:  RABBITMQ_URL=amqp://… node rabbitmq.mjs QUEUE [-]
import { randomUUID } from 'node:crypto';
import amqp from 'amqplib';
import { inBatches, jobs, run, withRetries } from './jobs.mjs';

class Publisher {
  constructor(url, queue) {
    this.url = url;
    this.queue = queue;
  }

  // One connection for all batches; another one after an error.
  async channel() {
    if (this.open) return this.open;
    this.connection = await amqp.connect(this.url, { timeout: 10_000 });
    // Without a listener Node ends the process; the waiting confirm fails by itself.
    this.connection.on('error', () => {});
    const channel = await this.connection.createConfirmChannel();
    channel.on('error', () => {});
    // 'mandatory': what no queue took comes back here, before its confirm.
    channel.on('return', () => { this.returned += 1; });
    return (this.open = channel);
  }

  async send(batch) {
    this.returned = 0;
    try {
      const channel = await this.channel();
      for (const [body, messageId] of batch) {
        // The default exchange leads to the queue of that name. The queue is the workers' to
        // declare: they know its arguments, and a publisher that gets one wrong is cut off.
        channel.sendToQueue(this.queue, Buffer.from(body), {
          persistent: true,
          mandatory: true,
          messageId, // the job's id from here on: in the logs, among the dead letters
          contentType: 'application/json',
        });
      }
      await channel.waitForConfirms(); // on disk (a quorum queue: of most nodes)
    } catch (error) {
      await this.close();
      throw error;
    }
    if (this.returned) {
      const error = new Error(`there is no queue "${this.queue}": start a worker once, it makes it`);
      error.permanent = true;
      throw error;
    }
    return batch.length;
  }

  async close() {
    const connection = this.connection;
    this.connection = this.open = undefined;
    await connection?.close().catch(() => {}); // it may be what broke
  }
}

await run('RABBITMQ_URL', async function* (url, queue) {
  const publisher = new Publisher(url, queue);
  try {
    for await (const batch of inBatches(jobs(queue), 200)) {
      // The ids are made outside of the retry, so that a job has the same one each time.
      const named = batch.map((body) => [body, randomUUID()]);
      yield await withRetries(() => publisher.send(named));
    }
  } finally {
    await publisher.close();
  }
});
