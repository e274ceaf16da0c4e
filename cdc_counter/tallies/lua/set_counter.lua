-- Writes or removes what is known of one counter and tells every reader to look again.
--
-- KEYS[1]  meta hash   KEYS[2]  hash of counters   KEYS[3]  feed stream
-- ARGV[1]  epoch       ARGV[2]  counter name       ARGV[3]  its record as JSON, '' removes it   ARGV[4]  feed length
--
-- Replies  {'applied'}  or  {'epoch', stored epoch or ''}  when other or no tallies are here: nothing was done

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'epoch', epoch or ''} end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
end
local sequence = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'sequence', 1))
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], sequence .. '-0', 'reset', ARGV[2])
return {'applied'}
