-- A new job, or the one that its idempotency key stands for.
-- ARGV: 2 id, 3 idempotency hash or '', 4 digest, 5 most jobs, 6 most bytes, 7 ttl in the queue or
-- 0, 8 payload, then the record's fields and values.
-- Answers {created | existing | mismatch | full | no_memory, id, created_ms, place}.

local id, idempotency, digest, queue_ttl_ms = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[7])

local function answer(status, known)
  local job = read(known)
  if not job then return {status, known, 0, -1} end
  local place = redis.call('ZRANK', key('queue', queue_of(job)), known)
  return {status, known, number(job, 'created_ms'), place or -1}
end

if idempotency ~= '' then
  local first = redis.call('HMGET', key('idempotency', idempotency), 'id', 'digest')
  if first[1] and first[2] ~= digest then return {'mismatch', first[1], 0, -1} end
  if first[1] then return answer(first[1] == id and 'created' or 'existing', first[1]) end
end
if redis.call('EXISTS', key('job', id)) == 1 then return answer('created', id) end

local fields = {state = 'queued', created_ms = now, queued_ms = now, entered_ms = now}
for at = 9, #ARGV, 2 do fields[ARGV[at]] = ARGV[at + 1] end
local inline = fields.payload_blob and 0 or tonumber(fields.payload_size)
if tonumber(redis.call('HGET', key('counts'), 'jobs') or 0) >= tonumber(ARGV[5])
    or (not server_is_full() and not has_room(inline, ARGV[6])) then
  return {'full', id, 0, -1}
end
if server_is_full() then  -- the next submit finds what these leave
  local spares = {}
  for _, spare in ipairs(redis.call('ZRANGE', key('spares'), 0, LIMITS.spares - 1)) do
    spares[#spares + 1] = read(spare) or {id = spare}
  end
  give_up(spares)
  return {'no_memory', id, 0, -1}
end

if queue_ttl_ms > 0 then fields.expires_ms = now + queue_ttl_ms end
local job = {id = id}
change(job, fields)
keep(job, 'payload', ARGV[8])
if idempotency ~= '' then
  redis.call('HSET', key('idempotency', idempotency), 'id', id, 'digest', digest)
end
redis.call('HINCRBY', key('counts'), 'jobs', 1)
if redis.call('SADD', key('models'), job.model) == 1 then redis.call('PERSIST', key('totals', job.model)) end
count(job, 'submitted', 1)
file(job)
return answer('created', id)
