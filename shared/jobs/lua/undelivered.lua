-- Webhooks that were given up, newest first. ARGV: 2 the id before which to begin or '', 3 most.
-- Answers {{id, fields}, ...}.

local newest = ARGV[2] == '' and '+' or '(' .. ARGV[2]
return redis.call('XREVRANGE', key('undelivered'), newest, '-', 'COUNT', ARGV[3])
