-- Writes or removes what is known of one counter and tells every reader to look again.
--
-- KEYS[1]  meta hash   KEYS[2]  hash of counters   KEYS[3]  feed stream
-- ARGV[1]  epoch       ARGV[2]  counter name       ARGV[3]  its record as JSON, '' removes it   ARGV[4]  feed length
-- ARGV[5]  the id of the record that is stored, '' for none: compared, so that nobody writes over a counter that was
--          altered, removed or added meanwhile
-- ARGV[6]  the mark in the counter's seed journal, '' for any: compared, so that only who seeds it ends the seed
--
-- A removed counter leaves meta field 'gone:<name>' with its id: its tallies are still to be deleted.
--
-- Replies  {'applied'}                         done, now or before
--          {'counter', stored id or ''}        another one is stored: nothing was done
--          {'seed', stored mark or ''}         somebody else has taken the seed over: nothing was done
--          {'epoch', stored epoch or ''}       other or no tallies here: nothing was done
--          {'unfit', key, field, reason}       the feed's number is damaged: nothing was done

local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch ~= ARGV[1] then return {'epoch', epoch or ''} end
if ARGV[6] ~= '' then
  local mark = redis.call('HGET', KEYS[1], 'seed:' .. ARGV[2]) or ''
  if mark ~= ARGV[6] then return {'seed', mark} end
end
local last = tonumber(redis.call('HGET', KEYS[1], 'sequence') or '0')
if not last then return {'unfit', KEYS[1], 'sequence', 'it holds no integer'} end

-- A record that can't be read is nobody's: it may be replaced by whoever begins a counter.
local function id_of(record)
  local read, decoded = pcall(cjson.decode, record or '')
  local id = read and type(decoded) == 'table' and tonumber(decoded.id)
  return id and string.format('%.0f', id) or ''
end

local stored, new = id_of(redis.call('HGET', KEYS[2], ARGV[2])), id_of(ARGV[3])
if ARGV[3] == '' and stored == '' then return {'applied'} end
if stored ~= ARGV[5] and (new == '' or stored ~= new) then return {'counter', stored} end

local gone = 'gone:' .. ARGV[2]
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
  redis.call('HSET', KEYS[1], gone, stored)
else
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
  redis.call('HDEL', KEYS[1], gone)
end
local sequence = string.format('%.0f', last + 1)
redis.call('HSET', KEYS[1], 'sequence', sequence)
-- A feed of another type or with higher numbers is replaced, which readers see as a gap.
local reply = redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], sequence .. '-0', 'reset', ARGV[2])
if type(reply) == 'table' and reply.err then
  redis.call('DEL', KEYS[3])
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], sequence .. '-0', 'reset', ARGV[2])
end
return {'applied'}
