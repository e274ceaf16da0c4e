-- Deletes tallies that a removed counter left, unless the counter is back.
--
-- KEYS[1]  meta hash   KEYS[2]  hash of last verifications
-- KEYS[3+] hashes of tallies; none: everything is deleted, the counter is forgotten
-- ARGV[1]  epoch       ARGV[2]  counter name       ARGV[3]  the id that it was removed with
--
-- Replies  {'applied'}                     done
--          {'counter', id or ''}           it was not removed, or is back: nothing was done
--          {'epoch', stored epoch or ''}   other or no tallies here: nothing was done

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'epoch', epoch or ''} end
local gone = redis.call('HGET', KEYS[1], 'gone:' .. ARGV[2]) or ''
if gone ~= ARGV[3] then return {'counter', gone} end
if #KEYS > 2 then
  redis.call('UNLINK', unpack(KEYS, 3))
else
  redis.call('HDEL', KEYS[2], ARGV[2])
  redis.call('HDEL', KEYS[1], 'gone:' .. ARGV[2], 'seed:' .. ARGV[2])
end
return {'applied'}
