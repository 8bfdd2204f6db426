-- A replica died and somebody saw it: its jobs return at once, as suspects.
-- ARGV: 2 holder, 3 deaths that are one too many. Answers {id, state, ...}.

local answer = {}
for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
  if redis.call('HGET', key('job', id), 'holder') == ARGV[2] then
    local job = read(id)
    even_if_full()
    local deaths = number(job, 'deaths') + 1
    change(job, {deaths = deaths})
    local message = 'its replica died while it ran (deaths: ' .. deaths .. ')'
    count(job, 'lost', 1)
    answer[#answer + 1] = id
    answer[#answer + 1] = end_attempt(job, 'replica_crashed', message, deaths >= tonumber(ARGV[3]), true)
  end
end
return answer
