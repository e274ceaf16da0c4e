-- Deletes tallies that a seed does away with: what an earlier one left, and scopes that are gone.
--
-- KEYS[1]  meta hash   KEYS[2..]  tallies
-- ARGV[1]  epoch       ARGV[2]  meta field of the seed's journal   ARGV[3]  the mark in it
--
-- Replies  {'applied'}
--          {'epoch', stored epoch or ''}   other or no tallies are here: nothing was done
--          {'seed', stored mark or ''}     somebody else has taken the seed over: nothing was done

local epoch, mark = unpack(redis.call('HMGET', KEYS[1], 'epoch', ARGV[2]))
if epoch ~= ARGV[1] then return {'epoch', epoch or ''} end
mark = mark or ''
if mark ~= ARGV[3] then return {'seed', mark} end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return {'applied'}
