-- Answers {counts, {model, queued, running, canceling, dead, ...}, {queue, waiting, oldest, ...}, blobs,
-- webhooks to tell, webhooks given up}, where `oldest` is when the first of those that wait was queued.

local models, queues = {}, {}
for _, model in ipairs(redis.call('SMEMBERS', key('models'))) do
  models[#models + 1] = model
  for _, state in ipairs({'queued', 'running', 'canceling', 'dead'}) do
    models[#models + 1] = redis.call('ZCARD', key('list', model .. ':' .. state))
  end
end

local function oldest(queue)
  local first = now
  for step = 1, 19 do  -- priorities, and from 11 on those of suspects
    local from, to = step * LIMITS.priority_ms, (step + 1) * LIMITS.priority_ms - 1
    local head = redis.call('ZRANGEBYSCORE', queue, from, to, 'WITHSCORES', 'LIMIT', 0, 1)
    if head[2] then first = math.min(first, head[2] - from) end
  end
  return first
end

for _, name in ipairs(redis.call('SMEMBERS', key('queues'))) do
  queues[#queues + 1] = name
  queues[#queues + 1] = redis.call('ZCARD', key('queue', name))
  queues[#queues + 1] = now - oldest(key('queue', name))
end
return {redis.call('HGETALL', key('counts')), models, queues, redis.call('ZCARD', key('garbage')),
  redis.call('ZCARD', key('webhooks')), redis.call('XLEN', key('undelivered'))}
