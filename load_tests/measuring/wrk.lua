-- Requests that were written to files, in turn, so that no cache of answers helps; at the end one
-- line of JSON for closed_loop.py.
--
-- Arguments: a folder, and how many requests are in it: N.head (the path, then a header a line) and
-- N.body.

local requests = {}
local turn = 0

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function init(args)
  for index = 0, tonumber(args[2]) - 1 do
    local path, headers = nil, {}
    for line in read(args[1] .. "/" .. index .. ".head"):gmatch("[^\n]+") do
      if path == nil then
        path = line
      else
        local name, value = line:match("^([^:]+): (.*)$")
        headers[name] = value
      end
    end
    local body = read(args[1] .. "/" .. index .. ".body")
    requests[index] = wrk.format("POST", path, headers, body)
  end
end

function request()
  turn = (turn + 1) % (#requests + 1)
  return requests[turn]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write("wrk-summary: ", string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%d,"p90_us":%d,"p99_us":%d,"p999_us":%d,"max_us":%d,'
      .. '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency:percentile(99.9), latency.max, errors.connect, errors.read,
    errors.write, errors.status, errors.timeout))
end
