-- Queued jobs of one revision go to others, each with its place.
-- ARGV: 2 model, 3 from revision, 4 to revision, 5 to version, 6 most jobs, then version, revision, ...
-- of what is served beside that. A job whose version is still served, as another revision, goes there;
-- one that is pinned to a version that is not fails. Answers {moved, failed, left}.

local model, from, to, version = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local queue = key('queue', model .. '/' .. from)
local served = {[version] = to}
for at = 7, #ARGV, 2 do served[ARGV[at]] = ARGV[at + 1] end
local moved, failed = 0, 0
for _, revision in pairs(served) do
  if from == revision then return {0, 0, 0} end
end
for _, id in ipairs(redis.call('ZRANGE', queue, 0, ARGV[6] - 1)) do
  local job = read(id)
  if not job or job.state ~= 'queued' then
    redis.call('ZREM', queue, id)
  elseif job.pin and not served[job.pin] then
    local message = 'version ' .. job.pin .. ', to which it is pinned, is not served any more'
    enter(job, 'failed', {error_code = 'version_not_found', error_message = message})
    failed = failed + 1
  else
    local goal = job.pin or (served[job.version] and job.version) or version
    unfile(job)
    local first = goal ~= job.version and (job.moved_from or job.version) or job.moved_from
    change(job, {revision = served[goal], version = goal, moved_from = first})
    file(job)
    moved = moved + 1
  end
end
return {moved, failed, redis.call('ZCARD', queue)}
