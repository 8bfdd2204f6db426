-- What is to be told now; each is held off for a while, so that others do not tell it too.
-- ARGV: 2 most, 3 hold in ms. Answers {{state, when it began, tries before, fields}, ...}.

local answer = {}
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', key('webhooks'), '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local id, state = entry:match('^(.*):(%a+)$')
  local job = read(id)
  even_if_full()
  if not job then
    redis.call('ZREM', key('webhooks'), entry)
  else
    redis.call('ZADD', key('webhooks'), now + ARGV[3], entry)
    answer[#answer + 1] = {state, number(job, 'webhook_at_' .. state),
      number(job, 'webhook_tries_' .. state), redis.call('HGETALL', key('job', id))}
  end
end
return answer
