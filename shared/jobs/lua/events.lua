-- ARGV: 2 id, 3 the event after which to begin or '', 4 most events. Answers {{id, fields}, ...}.

local first = ARGV[3] == '' and '-' or '(' .. ARGV[3]
return redis.call('XRANGE', key('events', ARGV[2]), first, '+', 'COUNT', ARGV[4])
