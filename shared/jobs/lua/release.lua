-- The holder will not run it after all: back to its place, and the attempt does not count.
-- ARGV: 2 id, 3 token. Answers queued, canceled or lost.

local job = read(ARGV[2])
if not job or not is_held_by(job, ARGV[3]) then return closed(job, ARGV[3], 'release') end
if job.state == 'canceling' then
  enter(job, 'canceled')
else
  enter(job, 'queued', {attempts = number(job, 'attempts') - 1})
  count(job, 'released', 1)
end
return close(job, 'release', job.state)
