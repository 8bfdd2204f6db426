-- Up to so many jobs of a queue for one holder; the same request again gets the same jobs.
-- ARGV: 2 model, 3 revision, 4 holder, 5 request, 6 most, 7 lease in ms, 8 whether the holder runs
-- nothing else, '1' or '0'.
-- A suspect is given alone, to a holder that runs nothing else, so that its next death is its own
-- doing and harms nobody; other holders get what comes after it.
-- Answers {suspects passed over, {fields, payload or nil}, ...}.

local model, revision, holder, request = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local most, lease_ms, idle = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1'
local queue, grant = key('queue', model .. '/' .. revision), key('grant', request)
local passed_over = 0

local function is_overdue(job)
  return job.expires_ms and tonumber(job.expires_ms) <= now
end

-- The first jobs from a score to another; what is overdue ends here.
local function first(wanted, from, to)
  local found = {}
  local limit = wanted + LIMITS.overdue
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, from, to, 'LIMIT', 0, limit)) do
    if #found >= wanted then break end
    local job = read(id)
    if not job or job.state ~= 'queued' then
      redis.call('ZREM', queue, id)
    elseif is_overdue(job) then
      enter(job, 'expired', {error_code = 'queue_timeout', error_message = 'its ttl ended in the queue'})
    else
      found[#found + 1] = job
    end
  end
  return found
end

local function choose()
  local chosen = first(most, '-inf', SUSPECTS - 1)
  local suspect = idle and first(1, SUSPECTS, '+inf')[1]
  if suspect and (not chosen[1] or turn_of(suspect) < turn_of(chosen[1])) then return {suspect} end
  local last = #chosen < most and '+inf' or SUSPECTS + turn_of(chosen[most])
  passed_over = redis.call('ZCOUNT', queue, SUSPECTS, last)
  return chosen
end

local function hand_over(job)
  change(job, nil, {'progress', 'progress_message', 'progress_estimated', 'progress_event', 'partial'})
  enter(job, 'running', {
    holder = holder,
    grant = request,
    token = number(job, 'token') + 1,
    attempts = number(job, 'attempts') + 1,
    started_ms = now,
    lease_expires_ms = now + lease_ms,
  })
  redis.call('RPUSH', grant, job.id)
end

if redis.call('EXISTS', grant) == 0 then
  even_if_full()
  local chosen = choose()
  if #chosen > 0 then redis.call('RPUSH', grant, passed_over) end
  for _, job in ipairs(chosen) do hand_over(job) end
  redis.call('PEXPIRE', grant, LIMITS.grant_ms)
end

local answer = {}
local granted = redis.call('LRANGE', grant, 0, -1)
passed_over = tonumber(table.remove(granted, 1) or passed_over)
for _, id in ipairs(granted) do
  local job = read(id)
  if job and is_held(job.state) and job.grant == request then
    answer[#answer + 1] = {redis.call('HGETALL', key('job', id)), redis.call('GET', key('payload', id))}
  end
end
return {passed_over, unpack(answer)}
