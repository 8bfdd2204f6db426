-- A replica died and somebody saw it: its jobs return at once, those that it had begun as suspects.
-- ARGV: 2 holder, 3 deaths that are one too many, 4 whether it is known what it had begun, '1' or
-- '0' (then it is all), 5... ids of what it had begun.
-- What it had not begun has no death, and as a rule no attempt. But who holds jobs may also die of
-- them before they begin, so that is forgiven so many times only. Answers {id, state, ...}.

local known, begun = ARGV[4] == '1', {}
for at = 5, #ARGV do begun[ARGV[at]] = true end

local function condemn(job)
  local deaths = number(job, 'deaths') + 1
  change(job, {deaths = deaths})
  local message = 'its replica died while it ran (deaths: ' .. deaths .. ')'
  count(job, 'lost', 1)
  return end_attempt(job, 'replica_crashed', message, deaths >= tonumber(ARGV[3]), true)
end

local function spare(job)
  local spared = number(job, 'spared')
  if job.state == 'running' and spared < LIMITS.spared then
    enter(job, 'queued', {attempts = number(job, 'attempts') - 1, spared = spared + 1})
    count(job, 'released', 1)
    return job.state
  end
  count(job, 'lost', 1)
  return end_attempt(job, 'replica_crashed', 'its replica died before it ran', false, true)
end

local answer = {}
for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
  if redis.call('HGET', key('job', id), 'holder') == ARGV[2] then
    local job = read(id)
    even_if_full()
    answer[#answer + 1] = id
    answer[#answer + 1] = (known and not begun[id]) and spare(job) or condemn(job)
  end
end
return answer
