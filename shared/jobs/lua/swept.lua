-- Blobs that were deleted. ARGV: 2.. their names. Answers ok.

if #ARGV > 1 then redis.call('ZREM', key('garbage'), unpack(ARGV, 2)) end
return 'ok'
