-- Newest first. ARGV: 2 model or '', 3 state, `dead` or '', 4 the id before which to begin or '',
-- 5 most jobs. Answers {fields, ...}.

local most = tonumber(ARGV[5])
local models = ARGV[2] ~= '' and {ARGV[2]} or redis.call('SMEMBERS', key('models'))
local states = {ARGV[3]}
if ARGV[3] == '' then
  states = {}
  for state in pairs(MAY) do states[#states + 1] = state end
end
local newest = ARGV[4] == '' and '+' or '(' .. ARGV[4]

local ids = {}
for _, model in ipairs(models) do
  for _, state in ipairs(states) do
    local list = key('list', model .. ':' .. state)
    for _, id in ipairs(redis.call('ZREVRANGEBYLEX', list, newest, '-', 'LIMIT', 0, most)) do
      ids[#ids + 1] = id
    end
  end
end
table.sort(ids, function(a, b) return a > b end)

local answer = {}
for at = 1, math.min(most, #ids) do answer[at] = redis.call('HGETALL', key('job', ids[at])) end
return answer
