// Code that both publishers share: reading jobs, batches, retries, exit status.
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';

const TRIES = 5;

// With the argument '-', yields the jobs on standard input, one JSON object per line.
// Without it, yields one sample event.
export async function* jobs(queue) {
  if (process.argv[3] === '-') {
    for await (const line of createInterface({ input: process.stdin })) {
      if (line.trim()) yield line;
    }
    return;
  }
  if (queue !== 'events') {
    throw new Error(`the sample event is for "events", got "${queue}"; use - to read jobs`);
  }
  yield JSON.stringify({
    type: 'event.record',
    payload: {
      // Created once, so that the event counts once even if a retry sends it twice.
      eventId: randomUUID(),
      type: 'form_viewed',
      formId: 'signup',
      occurredAt: new Date().toISOString(),
    },
    metadata: { formId: 'signup' },
  });
}

export async function* inBatches(items, size) {
  let batch = [];
  for await (const item of items) {
    batch.push(item);
    if (batch.length === size) {
      yield batch;
      batch = [];
    }
  }
  if (batch.length) yield batch;
}

// Sends a batch again if it failed or its answer was lost, so no job is lost, but it may
// arrive twice. Therefore each job has its own id: eventId, submissionId, or the id of a webhook.
export async function withRetries(send) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await send();
    } catch (error) {
      if (error.permanent || attempt === TRIES) throw error;
      const wait = 100 * 2 ** attempt;
      console.error(`${error.message}; retrying in ${wait} ms`);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

// Exit status: 0 the broker has all jobs, 1 it may lack some, 2 wrong use.
export async function run(variable, publish) {
  const url = process.env[variable];
  const queue = process.argv[2];
  if (!url || !queue) {
    console.error(`expected ${variable} in the environment and a queue: node FILE QUEUE [-]`);
    process.exit(2);
  }
  let sent = 0;
  try {
    for await (const count of publish(url, queue)) sent += count;
    console.log(`${sent} sent to ${queue}`);
  } catch (error) {
    console.error(`${error.message}; ${sent} were sent before`);
    process.exitCode = 1;
  }
}
