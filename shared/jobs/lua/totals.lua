-- Answers {model, {name, total, ...}, ...} for the models that have jobs.

local answer = {}
for _, model in ipairs(redis.call('SMEMBERS', key('models'))) do
  answer[#answer + 1] = model
  answer[#answer + 1] = redis.call('HGETALL', key('totals', model))
end
return answer
