-- A webhook was called. ARGV: 2 id, 3 state, 4 when that state began, 5 calls so far, 6 ms until the
-- next one, or '' if there is none, 7 why it is given up, or ''. Answers ok.

local job, state = read(ARGV[2]), ARGV[3]
if not job or number(job, 'webhook_at_' .. state) ~= tonumber(ARGV[4]) then
  return 'ok'  -- the job is gone, or came to this state again
end
even_if_full()
local entry = job.id .. ':' .. state
if redis.call('ZSCORE', key('webhooks'), entry) then
  change(job, {['webhook_tries_' .. state] = ARGV[5]})
  if ARGV[6] ~= '' then
    redis.call('ZADD', key('webhooks'), now + ARGV[6], entry)
  elseif ARGV[7] ~= '' then
    give_up_webhook(job, state, ARGV[7])
  else
    redis.call('ZREM', key('webhooks'), entry)
  end
end
return 'ok'
