-- Everything of a finished job goes. ARGV: 2 id. Answers gone, or the state of one that is not.

local job = read(ARGV[2])
if not job then return 'gone' end
if not FINISHED[job.state] then return job.state end
erase(job)
return 'gone'
