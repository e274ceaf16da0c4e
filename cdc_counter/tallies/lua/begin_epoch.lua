-- Starts a new lifetime of tallies: a new watermark, every counter to be seeded. Tallies themselves stay until replaced,
-- so that readers have the last known values, marked as such.
--
-- KEYS[1]  meta hash   KEYS[2]  hash of counters   KEYS[3]  feed stream   KEYS[4]  list of recent transactions
-- ARGV[1]  the epoch stored now, '' for none: compared, so that two callers can't both begin one
-- ARGV[2]  feed length   ARGV[3]  lowest number for the feed to go on from
-- ARGV[4]  first element of KEYS[4], or ''   ARGV[5]  number of meta pairs
-- then     field, value for each pair; then counter name, record for each counter
--
-- Counters of before that are not among the new ones are marked as gone, as set_counter.lua does: their tallies are
-- still to be deleted.
--
-- Replies  {'applied'}  or  {'epoch', stored epoch or ''}  when another one is stored: nothing was done
-- A meta key that is no hash, which only somebody else can have written, counts as no epoch and is replaced.

local function meta(field)
  local reply = redis.pcall('HGET', KEYS[1], field)
  return type(reply) == 'string' and reply or ''
end

local stored = meta('epoch')
if stored ~= ARGV[1] then return {'epoch', stored} end
local sequence = math.max(tonumber(meta('sequence')) or 0, tonumber(ARGV[3])) + 1
local gone = {}
local function note(names, prefix)
  if type(names) ~= 'table' or names.err then return end
  for _, name in ipairs(names) do
    if string.sub(name, 1, #prefix) == prefix then gone[string.sub(name, #prefix + 1)] = true end
  end
end
note(redis.pcall('HKEYS', KEYS[2]), '')
note(redis.pcall('HKEYS', KEYS[1]), 'gone:')
-- The feed goes, too: its numbers may be higher than what is known of them, and then nothing could be added.
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
if ARGV[4] ~= '' then redis.call('RPUSH', KEYS[4], ARGV[4]) end
local pairs_end = 5 + 2 * tonumber(ARGV[5])
for i = 6, pairs_end, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = pairs_end + 1, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  gone[ARGV[i]] = nil
end
for name in pairs(gone) do redis.call('HSET', KEYS[1], 'gone:' .. name, '0') end
local id = string.format('%.0f', sequence)
redis.call('HSET', KEYS[1], 'sequence', id)
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], id .. '-0', 'reset', '')
return {'applied'}
