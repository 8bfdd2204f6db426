-- The holder lives and has got so far: its lease begins anew.
-- ARGV: 2 id, 3 token, 4 number of this beat, 5 lease in ms, 6 progress or '', 7 message,
-- 8 estimated, then outputs as type, size, blob, body. A beat that was counted changes nothing.
-- Answers continue, cancel or lost.

local job = read(ARGV[2])
if not job or not is_held_by(job, ARGV[3]) then return 'lost' end

local function replace_progress()
  if job.progress_event then
    redis.call('XDEL', key('events', job.id), job.progress_event)
  end
  local event = log(job, 0, 'kind', 'progress', 'progress', ARGV[6], 'message', ARGV[7],
    'estimated', ARGV[8], 'at', now)
  change(job, {progress = ARGV[6], progress_message = ARGV[7], progress_estimated = ARGV[8],
    progress_event = event})
end

local function add_output(first)
  local event = {'kind', 'output', 'at', now, 'type', ARGV[first], 'size', ARGV[first + 1]}
  local blob, body = ARGV[first + 2], ARGV[first + 3]
  event[#event + 1] = blob == '' and 'body' or 'blob'
  event[#event + 1] = blob == '' and body or blob
  change(job, {partial = log(job, #body, unpack(event))})
end

if tonumber(ARGV[4]) > number(job, 'beat') then
  even_if_full()
  change(job, {beat = ARGV[4], lease_expires_ms = now + ARGV[5]})
  redis.call('ZADD', key('leases'), job.lease_expires_ms, job.id)
  for first = 9, #ARGV, 4 do add_output(first) end
  if ARGV[6] ~= '' then replace_progress() end
end
return job.state == 'canceling' and 'cancel' or 'continue'
