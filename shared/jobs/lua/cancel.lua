-- ARGV: 2 id. Answers the state that the job has now, or gone.

local job = read(ARGV[2])
if not job then return 'gone' end
if job.state == 'queued' then
  enter(job, 'canceled')
elseif job.state == 'running' then
  enter(job, 'canceling')
  redis.call('PUBLISH', key('beat', job.holder), job.id)
end
return job.state
