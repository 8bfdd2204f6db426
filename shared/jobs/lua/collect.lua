-- Finished jobs whose time has come are erased. ARGV: 2 most jobs, 3 most blobs.
-- Answers {jobs looked at, blobs to delete}: those of these jobs and of all that went before, until
-- `swept`; any of them, by chance, so that none that cannot be deleted stands before the others.

local ids = redis.call('ZRANGEBYSCORE', key('retained'), '-inf', now, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local job = read(id)
  if not job or not FINISHED[job.state] then
    redis.call('ZREM', key('retained'), id)
  else
    erase(job)
  end
end
return {#ids, redis.call('ZRANDMEMBER', key('garbage'), ARGV[3])}
