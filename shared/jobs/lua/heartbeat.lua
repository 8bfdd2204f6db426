-- The holder lives and has got so far: its lease begins anew.
-- ARGV: 2 id, 3 token, 4 number of this beat, 5 lease in ms, 6 progress or '', 7 message,
-- 8 estimated, 9 most bytes in the store, then outputs as type, size, blob, body. A beat that was
-- counted changes nothing.
-- Answers continue, cancel or lost; or full: there was no room for bodies that are not small, and
-- these were not told. Of a full store a job has no more than a few events, the last ones.

local FIRST = 10
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

local function are_too_many()
  local bytes = 0
  for first = FIRST, #ARGV, 4 do bytes = bytes + #ARGV[first + 3] end
  return #ARGV > FIRST and is_full(bytes, ARGV[9])
end

local function add_output(first)
  local event = {'kind', 'output', 'at', now, 'type', ARGV[first], 'size', ARGV[first + 1]}
  local blob, body = ARGV[first + 2], ARGV[first + 3]
  event[#event + 1] = blob == '' and 'body' or 'blob'
  event[#event + 1] = blob == '' and body or blob
  change(job, {partial = log(job, #body, unpack(event))})
end

local function add_if_small(first)
  local bytes = #ARGV[first + 3]
  if bytes > LIMITS.small_bytes then
    change(job, {full_beat = ARGV[4]})
  else
    make_room(job, LIMITS.events_if_full, bytes)
    add_output(first)
  end
end

if tonumber(ARGV[4]) > number(job, 'beat') then
  local add = are_too_many() and add_if_small or add_output
  even_if_full()
  change(job, {beat = ARGV[4], lease_expires_ms = now + ARGV[5]})
  redis.call('ZADD', key('leases'), job.lease_expires_ms, job.id)
  for first = FIRST, #ARGV, 4 do add(first) end
  if ARGV[6] ~= '' then replace_progress() end
end
if job.state == 'canceling' then return 'cancel' end
return job.full_beat == ARGV[4] and 'full' or 'continue'
