-- Looks whether the tallies include every commit up to an LSN, and writes something small after it: WAIT and WAITAOF
-- wait for the last write of their connection, and so for everything before it.
--
-- KEYS[1]  meta hash
-- ARGV[1]  epoch       ARGV[2]  the LSN, 16 hex digits
--
-- Replies  {'applied'}                     they do, and the write was made
--          {'behind', stored watermark}    they don't: Redis went back; nothing was done
--          {'epoch', stored epoch or ''}   other or no tallies here: nothing was done

local epoch, watermark = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'watermark'))
if epoch ~= ARGV[1] then return {'epoch', epoch or ''} end
if (watermark or '') < ARGV[2] then return {'behind', watermark or ''} end
redis.call('HSET', KEYS[1], 'asked', ARGV[2])
return {'applied'}
