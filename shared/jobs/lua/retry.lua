-- A job that failed, was canceled or expired starts over. ARGV: 2 id, 3 how often it did before, which
-- tells this retry from an older one. Answers the state that the job has now, gone, or no_input: its
-- input is not kept any more.

local job = read(ARGV[2])
if not job then return 'gone' end
local may = FINISHED[job.state] and MAY[job.state].queued
if not may or number(job, 'retries') ~= tonumber(ARGV[3]) then return job.state end
if not job.payload_size then return 'no_input' end
local fields = {attempts = 0, deaths = 0, queued_ms = now, retries = number(job, 'retries') + 1}
local ttl = number(job, 'queue_ttl_ms')
if ttl > 0 then fields.expires_ms = now + ttl end
if job.idempotency then redis.call('PERSIST', key('idempotency', job.idempotency)) end
enter(job, 'queued', fields)
change(job, nil, {'dead', 'finished_ms', 'collect_ms', 'error_code', 'error_message', 'error_cause', 'spared'})
return job.state
