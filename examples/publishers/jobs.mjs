// What both publishers share: which jobs to send, and what to do when that fails.
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';

const TRIES = 5;

// Without the argument '-', a single event, so that there is something to see at once.
// With it, one job a line from standard input, already as JSON.
export async function* jobs(queue) {
  if (process.argv[3] === '-') {
    for await (const line of createInterface({ input: process.stdin })) {
      if (line.trim()) yield line;
    }
    return;
  }
  if (queue !== 'events') {
    throw new Error(`the job made here is for the queue "events", not "${queue}"; give others with -`);
  }
  yield JSON.stringify({
    type: 'event.record',
    payload: {
      // Made here, once: sent twice by a retry below, the event still counts once.
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

// A batch whose answer was lost is sent again, so a job may arrive twice and is never lost.
// That is why a job carries an id of its own: eventId, submissionId, the id of a webhook.
export async function withRetries(what) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await what();
    } catch (error) {
      if (error.permanent || attempt === TRIES) throw error;
      const wait = 100 * 2 ** attempt;
      console.error(`${error.message}; trying again in ${wait} ms`);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

// Exit status: 0 when the broker has all of them, 1 when it may not have all, 2 for wrong use.
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
