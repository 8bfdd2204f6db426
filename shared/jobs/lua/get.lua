-- ARGV: 2 id. Answers {fields, place in the queue or -1}; no fields: unknown.

local job = read(ARGV[2])
local place = -1
if job and job.state == 'queued' then
  place = redis.call('ZRANK', key('queue', queue_of(job)), job.id) or -1
end
return {redis.call('HGETALL', key('job', ARGV[2])), place}
