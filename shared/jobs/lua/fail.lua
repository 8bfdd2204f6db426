-- The holder has an error. ARGV: 2 id, 3 token, 4 code, 5 message, 6 whether another attempt may
-- help, '1' or '0', 7 what was raised, or ''. Answers queued, failed, canceled or lost.

local job = read(ARGV[2])
if not job or not is_held_by(job, ARGV[3]) then return closed(job, ARGV[3], 'fail') end
local retryable = ARGV[6] == '1'
return close(job, 'fail', end_attempt(job, ARGV[4], ARGV[5], not retryable, retryable, ARGV[7]))
