-- Jobs whose leases have ended are taken from their holders.
-- ARGV: 2 most jobs, 3 gap in ms, 4 grace in ms.
-- Where nobody came to reclaim for longer than the gap, the server itself may have been away, and
-- holders could not prolong their leases. They get the grace to do it now.
-- Answers {id, state, ...}.

local most, gap_ms, grace_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local counts = key('counts')
local known = redis.call('HMGET', counts, 'reclaimed_ms', 'grace_until_ms')

even_if_full()
redis.call('HSET', counts, 'reclaimed_ms', now)
local grace_until = tonumber(known[2] or 0)
if now - tonumber(known[1] or 0) > gap_ms then
  grace_until = now + grace_ms
  redis.call('HSET', counts, 'grace_until_ms', grace_until)
end
if now < grace_until then return {} end

local answer = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, most)) do
  local job = read(id)
  if not job or not is_held(job.state) then
    redis.call('ZREM', key('leases'), id)
  else
    count(job, 'lost', 1)
    answer[#answer + 1] = id
    answer[#answer + 1] = end_attempt(job, 'replica_crashed', 'its replica fell silent', false, true)
  end
end
return answer
