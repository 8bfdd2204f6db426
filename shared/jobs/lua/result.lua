-- ARGV: 2 id. Answers {fields, bytes of a result that is kept here or nil}.

return {redis.call('HGETALL', key('job', ARGV[2])), redis.call('GET', key('result', ARGV[2]))}
