-- Adds deltas to tallies and moves the watermark, in one step: all of it or nothing.
--
-- KEYS[1]  meta hash          KEYS[2]  feed stream        KEYS[3]  list of recent transactions
-- KEYS[4]  journal of repairs (stream)
-- KEYS[5+] tally hashes, one per group below, in order
-- ARGV[1]  the epoch these deltas belong to
-- ARGV[2]  number of compare-and-set triples; then for each: meta field, expected value, new value
-- then     how many values the feed keeps; version of the change, or '' for the watermark as stored;
--          an element to append to KEYS[3], or ''; how many of its oldest elements to remove;
--          what to write into KEYS[4] beside every old and new value, or '' for nothing;
--          the groups as JSON: [[counter, scope, [bucket, bucket, ...], [delta, delta, ...]], ...], in the order of
--          KEYS. An empty counter keeps a group out of the feed. Deltas are decimal text: Lua's numbers are doubles.
--
-- One feed entry holds all groups: its id is the number of changed values so far, so that a gap shows as a jump.
--
-- Replies  {'applied'}                              done
--          {'conflict', stored value of each field}  one of them is not as expected: nothing was done
--          {'epoch', stored epoch or ''}            other or no tallies here: nothing was done
--          {'unfit', key, bucket, reason}           a value that is no 64-bit integer, or would become none: nothing done
--
-- A script that fails half-way keeps what it wrote, so everything that can fail is checked before the first write. The
-- server refuses the whole call for want of memory only before the first write as well.

local meta, feed, recent, journal = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

-- All that is asked of the meta hash, at once: with four calls fewer the script of one commit takes a tenth less time.
local at = 2
local triples = tonumber(ARGV[at])
local names = {'epoch', 'watermark', 'sequence'}
for i = 1, triples do names[3 + i] = ARGV[at + 3 * i - 2] end
local stored = redis.call('HMGET', meta, unpack(names))
local epoch, watermark, sequence = stored[1], stored[2] or '', stored[3] or '0'
if epoch ~= ARGV[1] then return {'epoch', epoch or ''} end

local moves, found, conflict = {}, {'conflict'}, false
for i = 1, triples do
  local field, expected, new = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local value = stored[3 + i] or ''
  if value ~= expected then conflict = true end
  if field == 'watermark' then watermark = new end
  found[#found + 1] = value
  moves[#moves + 1] = field
  moves[#moves + 1] = new
  at = at + 3
end
if conflict then return found end
if not string.match(sequence, '^%d+$') then return {'unfit', meta, 'sequence', 'it holds no integer'} end
sequence = tonumber(sequence)
local feed_length, version, element, surplus, repair = unpack(ARGV, at + 1, at + 5)
at = at + 6

-- Exact sum of two 64-bit integers given as decimal text, or nil when it leaves the 64-bit range.
-- Up to 13 characters Lua writes a sum of two exactly by itself, and in half the time: it shows 14 digits. Up to 15 digits
-- doubles are exact; beyond, magnitudes are added or subtracted in limbs of 7 digits.
local function limbs(digits)
  local result = {}
  for last = #digits, 1, -7 do
    result[#result + 1] = tonumber(string.sub(digits, math.max(1, last - 6), last))
  end
  return result
end

local function magnitude_less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function stripped(digits)
  digits = string.gsub(digits, '^0+', '')
  return digits == '' and '0' or digits
end

local function joined(parts)
  local text = {}
  for i = #parts, 1, -1 do text[#text + 1] = string.format('%07d', parts[i]) end
  return stripped(table.concat(text))
end

local function combined(a, b, sign)
  local x, y, result, carry = limbs(a), limbs(b), {}, 0
  for i = 1, math.max(#x, #y) do
    local sum = (x[i] or 0) + sign * (y[i] or 0) + carry
    carry = 0
    if sum >= 10000000 then sum, carry = sum - 10000000, 1 end
    if sum < 0 then sum, carry = sum + 10000000, -1 end
    result[i] = sum
  end
  if carry == 1 then result[#result + 1] = 1 end
  return joined(result)
end

local function long_add(a, b)
  local a_negative, b_negative = string.sub(a, 1, 1) == '-', string.sub(b, 1, 1) == '-'
  local x, y = stripped(string.gsub(a, '^-', '')), stripped(string.gsub(b, '^-', ''))
  local digits, negative
  if a_negative == b_negative then
    digits, negative = combined(x, y, 1), a_negative
  elseif magnitude_less(x, y) then
    digits, negative = combined(y, x, -1), b_negative
  else
    digits, negative = combined(x, y, -1), a_negative
  end
  if digits == '0' then return '0' end
  local limit = negative and '9223372036854775808' or '9223372036854775807'
  if magnitude_less(limit, digits) then return nil end
  return negative and '-' .. digits or digits
end

local function add(a, b)
  if #a <= 13 and #b <= 13 then return tostring(a + b) end
  if #a <= 15 and #b <= 15 then return string.format('%.0f', tonumber(a) + tonumber(b)) end
  return long_add(a, b)
end

-- Lua's unpack is limited by its stack; 4,000 values stay well below.
local CHUNK = 2000

-- First pass: read, add and check; nothing is written yet.
local find = string.find
local groups = cjson.decode(ARGV[at])
local writes, changed, total, repaired = {}, {}, 0, {}
for k = 1, #groups do
  local key, counter, scope, buckets, deltas = KEYS[4 + k], unpack(groups[k])
  local changes, gone = {}, {}
  for first = 1, #buckets, CHUNK do
    local last = math.min(#buckets, first + CHUNK - 1)
    local stored = redis.pcall('HMGET', key, unpack(buckets, first, last))
    if stored.err then
      if string.find(stored.err, 'WRONGTYPE') then return {'unfit', key, '', 'it is not a hash'} end
      return stored
    end
    for i = first, last do
      local name, value, delta = buckets[i], stored[i - first + 1] or '0', deltas[i]
      if not find(value, '^-?%d+$') then return {'unfit', key, name, 'it holds no integer'} end
      -- A sign and 20 digits: what is longer leaves the range whatever it is added to.
      local sum = #value <= 21 and #delta <= 21 and add(value, delta) or nil
      if not sum then return {'unfit', key, name, 'it would leave the 64-bit range'} end
      if sum == '0' or sum == '-0' then
        sum = '0'
        gone[#gone + 1] = name
      end
      changes[2 * i - 1] = name
      changes[2 * i] = sum
      if repair ~= '' then repaired[#repaired + 1] = {scope, name, value, sum} end
    end
  end
  local sets = changes
  if #gone > 0 then
    sets = {}
    for i = 1, #changes, 2 do
      if changes[i + 1] ~= '0' then
        sets[#sets + 1] = changes[i]
        sets[#sets + 1] = changes[i + 1]
      end
    end
  end
  writes[k] = {key, sets, gone}
  if counter ~= '' then
    changed[#changed + 1] = {counter, scope, changes}
    total = total + #buckets
  end
end

-- Second pass: write. Feed and journal are conveniences: one of another type or with higher numbers is replaced, which
-- readers of the feed see as a gap. Memory can't be what it wants for: a tally was written before.
local function append(stream, ...)
  local reply = redis.pcall('XADD', stream, ...)
  if type(reply) == 'table' and reply.err then
    redis.call('DEL', stream)
    redis.call('XADD', stream, ...)
  end
end

for _, write in ipairs(writes) do
  local key, sets, gone = write[1], write[2], write[3]
  for first = 1, #sets, 2 * CHUNK do
    redis.call('HSET', key, unpack(sets, first, math.min(#sets, first + 2 * CHUNK - 1)))
  end
  for first = 1, #gone, CHUNK do
    redis.call('HDEL', key, unpack(gone, first, math.min(#gone, first + CHUNK - 1)))
  end
end
if total > 0 then
  sequence = sequence + total
  if version == '' then version = watermark end
  local oldest = string.format('%.0f', math.max(0, sequence - tonumber(feed_length)))
  append(feed, 'MINID', '~', oldest, string.format('%.0f-0', sequence), 'changes', cjson.encode({version, changed}))
end
if element ~= '' then
  local kind = redis.call('TYPE', recent).ok
  if kind ~= 'list' and kind ~= 'none' then redis.call('DEL', recent) end
  redis.call('RPUSH', recent, element)
end
if repair ~= '' then
  append(journal, 'MAXLEN', '~', '1000', '*', 'repair', repair, 'version', watermark, 'changes', cjson.encode(repaired))
end
if surplus ~= '0' then redis.pcall('LTRIM', recent, surplus, '-1') end
moves[#moves + 1] = 'sequence'
moves[#moves + 1] = string.format('%.0f', sequence)
redis.call('HSET', meta, unpack(moves))
return {'applied'}
