-- What every script begins with: the clock, the keys, and the one way to change a job's state.
--
-- KEYS[1]  what all keys begin with; it holds the hash tag, so they lie in one slot of a cluster
-- ARGV[1]  milliseconds to add to the server's clock: 0, but in tests
-- MAY, FINISHED, LIMITS, BOUNDS_MS  come from shared/jobs/*.py and stand above this text
--
-- Keys (docs/jobs.md says more):
--   job:<id>                  hash: the record, the one authority
--   payload:<id>, result:<id> bytes that are kept here; larger ones are blobs elsewhere
--   events:<id>               stream: what happened to the job, for those who watch it
--   queue:<model>/<revision>  sorted set of queued jobs, by priority and then time; suspects
--                             behind all others, `SUSPECTS` later
--   queues                    set of the queues that hold something
--   expiring                  sorted set of queued jobs with a ttl, by its end
--   leases                    sorted set of running and canceling jobs, by their leases' ends
--   retained                  sorted set of finished jobs, by when they are collected
--   spares                    sorted set of canceled and expired jobs whose input is kept here for a
--                             retry, by since when; they give way to others
--   list:<model>:<state>      sorted set of jobs, all scores 0: ids sort by time; state or `dead`
--   models                    set of the models that have jobs
--   idempotency:<hash>        hash: id, digest
--   grant:<request>           list of what one request for leases was given: suspects
--                             passed over, then jobs
--   garbage                   sorted set of blobs that nothing refers to any more, by since when
--   webhooks                  sorted set of <id>:<state> to tell, by when that is due
--   undelivered               stream of webhooks that were given up, the last so many
--   counts                    hash: jobs, bytes, and the number of jobs in each state
--   totals:<model>            hash of what only grows, see "Totals" below
-- Channels, whose messages are hints to look:
--   wake:<model>/<revision>   something to lease
--   changed:<id>              an event of the job; wake:webhooks: something to tell
--   beat:<holder>             one of its jobs is to be canceled

local function key(kind, name)
  if name then return KEYS[1] .. ':' .. kind .. ':' .. name end
  return KEYS[1] .. ':' .. kind
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]

-- A server that is full refuses a script's first write if it may grow, but no later one. What was
-- accepted must go on, so every script but submit begins with a write that frees.
local function even_if_full()
  redis.call('HDEL', key('counts'), 'nothing')
end

local function read(id)
  local flat = redis.call('HGETALL', key('job', id))
  if #flat == 0 then return nil end
  local job = {}
  for at = 1, #flat, 2 do job[flat[at]] = flat[at + 1] end
  return job
end

local function number(job, field)
  return tonumber(job[field] or 0)
end

local function change(job, fields, dropped)
  local flat = {}
  for field, value in pairs(fields or {}) do
    job[field] = value
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  if #flat > 0 then redis.call('HSET', key('job', job.id), unpack(flat)) end
  if dropped then
    for _, field in ipairs(dropped) do job[field] = nil end
    redis.call('HDEL', key('job', job.id), unpack(dropped))
  end
end

-- Bytes kept here ------------------------------------------------------------------------------

local function charge(job, bytes)
  if bytes == 0 then return end
  redis.call('HINCRBY', key('counts'), 'bytes', bytes)
  job.bytes = redis.call('HINCRBY', key('job', job.id), 'bytes', bytes)
end

local function discard(blob)
  if blob and blob ~= '' then redis.call('ZADD', key('garbage'), now, blob) end
end

-- kind: payload or result. What it is must be in the record already.
local function keep(job, kind, body)
  if job[kind .. '_blob'] then return end
  redis.call('SET', key(kind, job.id), body)
  charge(job, number(job, kind .. '_size'))
end

local function drop(job, kind)
  local size, blob = job[kind .. '_size'], job[kind .. '_blob']
  if not size then return end
  if not blob then
    redis.call('UNLINK', key(kind, job.id))
    charge(job, -size)
  end
  discard(blob)
  change(job, nil, {kind .. '_type', kind .. '_size', kind .. '_blob'})
end

-- Inputs that were kept for a retry go. It writes what frees first.
local function give_up(spares)
  for _, spare in ipairs(spares) do
    redis.call('ZREM', key('spares'), spare.id)
    drop(spare, 'payload')
  end
end

-- Whether so many more bytes fit into our share of the server; inputs that are only kept for a retry
-- give way, the oldest first, unless all of them would not do. It writes what frees first.
local function has_room(bytes, bytes_max)
  local held = tonumber(redis.call('HGET', key('counts'), 'bytes') or 0)
  local over = held + bytes - tonumber(bytes_max)
  if over <= 0 then return true end
  local oldest = redis.call('ZRANGE', key('spares'), 0, LIMITS.spares - 1)
  local giving = {}
  for _, id in ipairs(oldest) do
    if over <= 0 then break end
    giving[#giving + 1] = read(id) or {id = id}
    over = over - number(giving[#giving], 'payload_size')
  end
  if over > 0 and #oldest < LIMITS.spares then return false end
  give_up(giving)
  return over <= 0
end

-- Whether the server itself is full: it refuses even to write nothing then. To be asked before a
-- script's first write; later it answers the same.
local refuses = nil
local function server_is_full()
  if refuses == nil then
    refuses = type(redis.pcall('SETRANGE', key('nothing'), 0, '')) == 'table'
  end
  return refuses
end

-- Whether so many more bytes are too many, for our share of the server or for the server itself.
local function is_full(bytes, bytes_max)
  return server_is_full() or not has_room(bytes, bytes_max)
end

-- Fields of the record for a content that came as type, size, blob from ARGV[first] on.
local function content(kind, first)
  local fields = {[kind .. '_type'] = ARGV[first], [kind .. '_size'] = ARGV[first + 1]}
  if ARGV[first + 2] ~= '' then fields[kind .. '_blob'] = ARGV[first + 2] end
  return fields
end

-- Events ---------------------------------------------------------------------------------------

local function event_fields(event)
  local fields = {}
  for at = 1, #event[2], 2 do fields[event[2][at]] = event[2][at + 1] end
  return fields
end

local function drop_event(job, event)
  local fields = event_fields(event)
  discard(fields.blob)
  if fields.body then
    charge(job, -#fields.body)
    change(job, {event_bytes = number(job, 'event_bytes') - #fields.body})
  end
  redis.call('XDEL', key('events', job.id), event[1])
end

-- Drops the oldest events, until there are fewer than so many and room for so many bytes.
local function make_room(job, most, bytes)
  local events = key('events', job.id)
  local count = redis.call('XLEN', events)
  while count > 0 and (count >= most
      or number(job, 'event_bytes') + bytes > LIMITS.event_bytes) do
    drop_event(job, redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1])
    count = count - 1
  end
end

-- Adds an event whose body has so many bytes; the oldest ones make room.
local function log(job, bytes, ...)
  make_room(job, LIMITS.events, bytes)
  local id = redis.call('XADD', key('events', job.id), '*', ...)
  if bytes > 0 then
    charge(job, bytes)
    change(job, {event_bytes = number(job, 'event_bytes') + bytes})
  end
  redis.call('PUBLISH', key('changed', job.id), id)
  return id
end

-- Totals ---------------------------------------------------------------------------------------

-- What was counted of a model's jobs: submitted, leased, lost, released; `in:<state>:<bucket>` and
-- `in:<state>:ms`, how long they stayed in a state that they left; `to:<state>:...`, how long they
-- took from their submit, or a retry, to their end. Buckets are numbered as BOUNDS_MS, one more
-- than those for all that is longer. They are counted with the transition, so once.
local function count(job, name, by)
  redis.call('HINCRBY', key('totals', job.model), name, by)
end

local function count_span(job, name, since)
  local ms = math.max(0, now - since)  -- clocks are set back
  local bucket = 1
  while BOUNDS_MS[bucket] and ms > BOUNDS_MS[bucket] do bucket = bucket + 1 end
  count(job, name .. ':' .. bucket, 1)
  count(job, name .. ':ms', ms)
end

local function count_step(job, state)
  if not FINISHED[job.state] then count_span(job, 'in:' .. job.state, number(job, 'entered_ms')) end
  if FINISHED[state] then count_span(job, 'to:' .. state, number(job, 'queued_ms')) end
  if state == 'running' then count(job, 'leased', 1) end
end

-- Webhooks -------------------------------------------------------------------------------------

-- A state that somebody wants to be told of. Its time tells it from the same state later.
local function tell_webhook(job)
  if job.webhook and (',' .. job.webhook_events .. ','):find(',' .. job.state .. ',', 1, true) then
    redis.call('ZADD', key('webhooks'), now, job.id .. ':' .. job.state)
    change(job, {['webhook_at_' .. job.state] = now, ['webhook_tries_' .. job.state] = 0})
    redis.call('PUBLISH', key('wake', 'webhooks'), job.id)
  end
end

-- Nobody will be told any more; repeated, it does nothing.
local function give_up_webhook(job, state, reason)
  if redis.call('ZREM', key('webhooks'), job.id .. ':' .. state) == 0 then return end
  redis.call('XADD', key('undelivered'), 'MAXLEN', LIMITS.undelivered, '*',
    'job', job.id, 'model', job.model, 'state', state, 'at', now,
    'tries', number(job, 'webhook_tries_' .. state), 'reason', reason)
end

-- States ---------------------------------------------------------------------------------------

local function queue_of(job)
  return job.model .. '/' .. job.revision
end

local function is_held(state)
  return state == 'running' or state == 'canceling'
end

-- A job that was in a replica as it died is a suspect. In its queue it stands behind all others,
-- so that these are found without looking past however many suspects there are.
local SUSPECTS = 10 * LIMITS.priority_ms

-- By when it wants to run, however suspect it is.
local function turn_of(job)
  return number(job, 'priority') * LIMITS.priority_ms + number(job, 'queued_ms')
end

-- Puts the job into the indexes of its state.
local function file(job)
  local state, id = job.state, job.id
  if state == 'queued' then
    local queue = queue_of(job)
    local score = turn_of(job) + (number(job, 'deaths') > 0 and SUSPECTS or 0)
    redis.call('ZADD', key('queue', queue), score, id)
    redis.call('SADD', key('queues'), queue)
    if job.expires_ms then redis.call('ZADD', key('expiring'), job.expires_ms, id) end
    redis.call('PUBLISH', key('wake', queue), id)
  elseif is_held(state) then
    redis.call('ZADD', key('leases'), job.lease_expires_ms, id)
  else
    redis.call('ZADD', key('retained'), job.collect_ms, id)
    if job.state ~= 'failed' and job.payload_size and not job.payload_blob then
      redis.call('ZADD', key('spares'), job.finished_ms, id)
    end
    if job.dead then redis.call('ZADD', key('list', job.model .. ':dead'), 0, id) end
  end
  redis.call('ZADD', key('list', job.model .. ':' .. state), 0, id)
  redis.call('HINCRBY', key('counts'), state, 1)
end

-- Takes the job out of the indexes of its state. It begins with a write that frees.
local function unfile(job)
  local state, id = job.state, job.id
  redis.call('ZREM', key('list', job.model .. ':' .. state), id)
  if state == 'queued' then
    local queue = queue_of(job)
    redis.call('ZREM', key('queue', queue), id)
    if redis.call('EXISTS', key('queue', queue)) == 0 then
      redis.call('SREM', key('queues'), queue)
    end
    redis.call('ZREM', key('expiring'), id)
  elseif is_held(state) then
    redis.call('ZREM', key('leases'), id)
  else
    redis.call('ZREM', key('retained'), id)
    redis.call('ZREM', key('spares'), id)
    if job.dead then redis.call('ZREM', key('list', job.model .. ':dead'), id) end
  end
  redis.call('HINCRBY', key('counts'), state, -1)
end

local function finish(job, fields)
  local ttl = fields.dead and job.dead_ttl_ms or job.result_ttl_ms
  fields.finished_ms = now
  fields.collect_ms = now + ttl
  if job.idempotency then
    redis.call('PEXPIRE', key('idempotency', job.idempotency), job.idempotency_ms)
  end
end

-- The one way from state to state; `fields` change with it.
local function enter(job, state, fields)
  assert(MAY[job.state][state], job.state .. ' -> ' .. state)
  fields = fields or {}
  local dropped = nil
  local keeps_input = FINISHED[state] and MAY[state].queued
  if keeps_input and state ~= 'failed' then keeps_input = not server_is_full() end
  unfile(job)
  count_step(job, state)
  if FINISHED[state] then finish(job, fields) end
  if is_held(job.state) and not is_held(state) then
    dropped = {'holder', 'grant', 'lease_expires_ms', 'beat', 'full_beat'}
  end
  if fields.error_code and not fields.error_cause then  -- that was an attempt's before
    dropped = dropped or {}
    dropped[#dropped + 1] = 'error_cause'
  end
  fields.state = state
  fields.entered_ms = now
  change(job, fields, dropped)
  if FINISHED[state] and not keeps_input then drop(job, 'payload') end
  file(job)
  log(job, 0, 'kind', 'state', 'state', state, 'at', now)
  tell_webhook(job)
end

-- What a lease's end without a result leads to. final: not even another attempt would help.
local function end_attempt(job, code, message, final, dead, cause)
  local failure = {error_code = code, error_message = message}
  if cause and cause ~= '' then failure.error_cause = cause end
  if job.state == 'canceling' then
    enter(job, 'canceled')
  elseif final or number(job, 'attempts') >= number(job, 'max_attempts') then
    if dead then failure.dead = 1 end
    enter(job, 'failed', failure)
  else
    enter(job, 'queued', failure)
  end
  return job.state
end

-- Leases ---------------------------------------------------------------------------------------

local function is_held_by(job, token)
  return is_held(job.state) and job.token == token
end

-- What a holder's last call came to is kept, so that the same call again has the same answer.
local function close(job, call, answer)
  change(job, {closed = job.token .. ':' .. call .. ':' .. answer})
  return answer
end

local function closed(job, token, call)
  local mark = token .. ':' .. call .. ':'
  if job and job.closed and job.closed:sub(1, #mark) == mark then
    return job.closed:sub(#mark + 1)
  end
  return 'lost'
end

-- The end -------------------------------------------------------------------------------------

local function discard_event_blobs(job)
  for _, event in ipairs(redis.call('XRANGE', key('events', job.id), '-', '+')) do
    discard(event_fields(event).blob)
  end
end

local function erase(job)
  local id = job.id
  unfile(job)
  discard(job.payload_blob)
  discard(job.result_blob)
  discard_event_blobs(job)
  for state in (job.webhook_events or ''):gmatch('[^,]+') do
    give_up_webhook(job, state, 'the job was erased before')
  end
  redis.call('UNLINK', key('job', id), key('payload', id), key('result', id), key('events', id))
  local bytes = number(job, 'bytes')
  if bytes > 0 then redis.call('HINCRBY', key('counts'), 'bytes', -bytes) end
  redis.call('HINCRBY', key('counts'), 'jobs', -1)
  local lists = {}
  for state in pairs(MAY) do lists[#lists + 1] = key('list', job.model .. ':' .. state) end
  if redis.call('EXISTS', unpack(lists)) == 0 then
    redis.call('SREM', key('models'), job.model)
    redis.call('PEXPIRE', key('totals', job.model), LIMITS.totals_ms)
  end
end

