// Sends e-mails with nodemailer's pool and prints the seconds it took.
//
//     node send.js '{"port": 25, "count": 1000, "connections": 4, …}'
import { readFileSync } from 'node:fs'
import nodemailer from 'nodemailer'

const options = JSON.parse(process.argv[2])
const transport = nodemailer.createTransport({
  pool: true,
  host: 'localhost',
  port: options.port,
  requireTLS: true,
  tls: { ca: readFileSync(options.authority) },
  auth: { user: options.user, pass: options.password },
  maxConnections: options.connections,
  maxMessages: options.most,
})
const envelope = { from: options.sender, to: [options.recipient] }
const start = process.hrtime.bigint()
const found = await Promise.all(
  Array.from({ length: options.count }, () => transport.sendMail({ envelope, raw: options.message })),
)
const seconds = Number(process.hrtime.bigint() - start) / 1e9
transport.close()
if (!found.every((info) => info.accepted.length === 1)) throw new Error('not all were accepted')
console.log(JSON.stringify({ seconds }))
