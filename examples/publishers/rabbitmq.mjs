// Publishes jobs to RabbitMQ:  RABBITMQ_URL=amqp://… node rabbitmq.mjs QUEUE [-]
import { randomUUID } from 'node:crypto';
import amqp from 'amqplib';
import { inBatches, jobs, run, withRetries } from './jobs.mjs';

class Publisher {
  constructor(url, queue) {
    this.url = url;
    this.queue = queue;
  }

  // One connection for all batches; a new connection after an error.
  async channel() {
    if (this.open) return this.open;
    this.connection = await amqp.connect(this.url, { timeout: 10_000 });
    // Without a listener, Node would end the process. The pending confirm fails by itself.
    this.connection.on('error', () => {});
    const channel = await this.connection.createConfirmChannel();
    channel.on('error', () => {});
    // Because of 'mandatory', a message without a queue is returned before its confirm.
    channel.on('return', () => { this.returned += 1; });
    return (this.open = channel);
  }

  async send(batch) {
    this.returned = 0;
    try {
      const channel = await this.channel();
      for (const [body, messageId] of batch) {
        // The default exchange routes to the queue of that name. The workers declare it: they know
        // its arguments, and RabbitMQ closes the channel of a publisher that declares others.
        channel.sendToQueue(this.queue, Buffer.from(body), {
          persistent: true,
          mandatory: true,
          messageId, // becomes the job's id, in logs and dead letters
          contentType: 'application/json',
        });
      }
      await channel.waitForConfirms(); // written to disk, for a quorum queue on most nodes
    } catch (error) {
      await this.close();
      throw error;
    }
    if (this.returned) {
      const error = new Error(`there is no queue "${this.queue}": start a worker, which declares it`);
      error.permanent = true;
      throw error;
    }
    return batch.length;
  }

  async close() {
    const connection = this.connection;
    this.connection = this.open = undefined;
    await connection?.close().catch(() => {}); // it may be broken
  }
}

await run('RABBITMQ_URL', async function* (url, queue) {
  const publisher = new Publisher(url, queue);
  try {
    for await (const batch of inBatches(jobs(queue), 200)) {
      // The ids are created outside of the retry, so that a job always has the same id.
      const named = batch.map((body) => [body, randomUUID()]);
      yield await withRetries(() => publisher.send(named));
    }
  } finally {
    await publisher.close();
  }
});
