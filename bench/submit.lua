-- wrk script: posts submissions with different ids and the same bytes as the worker's.
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  mark, before, after, token = args[1], args[2], args[3], args[4]
  count = 0
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Accept"] = "application/json"
  wrk.headers["Authorization"] = "Bearer " .. token
end

function request()
  count = count + 1
  local key = "bench-" .. mark .. "-" .. id .. "-" .. count
  wrk.headers["Idempotency-Key"] = key
  return wrk.format("POST", "/api/v1/submissions/", nil, before .. key .. after)
end

function done(summary, latency, requests)
  local errors = summary.errors
  local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("counted %d %d %d\n", summary.requests, summary.duration, bad))
end
