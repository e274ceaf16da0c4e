-- Puts seeded tallies in the place where readers look. Repeating it changes nothing.
--
-- KEYS[1]  meta hash   KEYS[2..]  pairs of keys: hidden tally, tally
-- ARGV[1]  epoch       ARGV[2]  meta field of the seed's journal   ARGV[3]  the mark in it
--
-- Replies  {'applied'}
--          {'epoch', stored epoch or ''}   other or no tallies are here: nothing was done
--          {'seed', stored mark or ''}     somebody else has taken the seed over: nothing was done

local epoch, mark = unpack(redis.call('HMGET', KEYS[1], 'epoch', ARGV[2]))
if epoch ~= ARGV[1] then return {'epoch', epoch or ''} end
mark = mark or ''
if mark ~= ARGV[3] then return {'seed', mark} end
for i = 2, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('UNLINK', KEYS[i + 1])
    redis.call('RENAME', KEYS[i], KEYS[i + 1])
  end
end
return {'applied'}
