-- Jobs that waited longer than they wanted to. ARGV: 2 most jobs. Answers their ids.

local ids = redis.call('ZRANGEBYSCORE', key('expiring'), '-inf', now, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local job = read(id)
  if not job or job.state ~= 'queued' then
    redis.call('ZREM', key('expiring'), id)
  else
    enter(job, 'expired', {error_code = 'queue_timeout', error_message = 'its ttl ended in the queue'})
  end
end
return ids
