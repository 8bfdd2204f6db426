-- The holder has a result. ARGV: 2 id, 3 token, 4 type, 5 size, 6 blob, 7 body, 8 most bytes in the store.
-- Answers succeeded, canceled (the result is not kept) or lost; or full: there is no room for the body,
-- and nothing happened. A small body always has room, and one that takes its payload's place.

local job = read(ARGV[2])
if not job or not is_held_by(job, ARGV[3]) then return closed(job, ARGV[3], 'commit') end
if job.state == 'canceling' then
  enter(job, 'canceled')
else
  local more = #ARGV[7] - (job.payload_blob and 0 or number(job, 'payload_size'))
  if #ARGV[7] > LIMITS.small_bytes and more > 0 and is_full(more, ARGV[8]) then return 'full' end
  local fields = content('result', 4)
  fields.progress = 1
  enter(job, 'succeeded', fields)
  change(job, nil, {'error_code', 'error_message', 'error_cause'})  -- of attempts before
  keep(job, 'result', ARGV[7])
end
return close(job, 'commit', job.state)
