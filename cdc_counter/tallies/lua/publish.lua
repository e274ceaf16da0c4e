-- Puts seeded tallies in the place where readers look. Repeating it changes nothing.
--
-- KEYS[1]  meta hash   KEYS[2..]  pairs of keys: hidden tally, tally
-- ARGV[1]  epoch
--
-- Replies  {'applied'}  or  {'epoch', stored epoch or ''}  when other or no tallies are here: nothing was done

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'epoch', epoch or ''} end
for i = 2, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('UNLINK', KEYS[i + 1])
    redis.call('RENAME', KEYS[i], KEYS[i + 1])
  end
end
return {'applied'}
