-- A webhook was called. ARGV: 2 id, 3 state, 4 ms until the next try, or '' if there is none.
-- Answers ok.

local entry = ARGV[2] .. ':' .. ARGV[3]
if ARGV[4] == '' then
  redis.call('ZREM', key('webhooks'), entry)
else
  even_if_full()
  redis.call('ZADD', key('webhooks'), 'XX', now + ARGV[4], entry)
end
return 'ok'
