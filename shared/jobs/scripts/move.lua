-- Queued jobs of one revision go to another, each with its place.
-- ARGV: 2 model, 3 from revision, 4 to revision, 5 to version, 6 most jobs.
-- A job that is pinned to another version fails instead. Answers {moved, failed, left}.

local model, from, to, version = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local queue = key('queue', model .. '/' .. from)
local moved, failed = 0, 0
if from == to then return {0, 0, 0} end
for _, id in ipairs(redis.call('ZRANGE', queue, 0, ARGV[6] - 1)) do
  local job = read(id)
  if not job or job.state ~= 'queued' then
    redis.call('ZREM', queue, id)
  elseif job.pin and job.pin ~= version then
    local message = 'version ' .. job.pin .. ', to which it is pinned, is not served any more'
    enter(job, 'failed', {error_code = 'version_not_found', error_message = message})
    failed = failed + 1
  else
    unfile(job)
    change(job, {revision = to, version = version})
    file(job)
    moved = moved + 1
  end
end
return {moved, failed, redis.call('ZCARD', queue)}
