-- A failed job starts over. ARGV: 2 id, 3 the token of its last attempt, which tells this retry
-- from an older one. Answers the state that the job has now, or gone.

local job = read(ARGV[2])
if not job then return 'gone' end
if job.state ~= 'failed' or (job.token or '0') ~= ARGV[3] then return job.state end
local fields = {attempts = 0, deaths = 0, queued_ms = now}
local ttl = number(job, 'queue_ttl_ms')
if ttl > 0 then fields.expires_ms = now + ttl end
if job.idempotency then redis.call('PERSIST', key('idempotency', job.idempotency)) end
enter(job, 'queued', fields)
change(job, nil, {'dead', 'finished_ms', 'collect_ms', 'error_code', 'error_message', 'error_cause', 'spared'})
return job.state
