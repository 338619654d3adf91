"""The atomic steps of admission and settlement, as Lua that Redis runs one at a time.

Keys in Redis (one primary; not for Redis Cluster):

lw:versions              hash, key id -> newest version of that key; @epoch -> made once per data
                         set, another value means that Redis lost its data
lw:rate:<key>            hash of the sliding minute: window w, requests r0 r1, tokens t0 t1
                         (0 the minute before, 1 the running one)
lw:budget:<id>:<period>  hash: s seeded from the ledger, usd/tok settled, rusd/rtok reserved, n settlements
lw:reservations          hash, reservation id -> what was reserved and what is known to be used
lw:expiry                sorted set, reservation id by the millisecond it is abandoned
lw:usage                 stream of settlements, m who and what, n amounts

The check reads the counters that it writes, in one script: there is no moment between them in which
another call could pass.
"""

from __future__ import annotations

VERSIONS = "lw:versions"
EPOCH = "@epoch"
RESERVATIONS = "lw:reservations"
EXPIRY = "lw:expiry"
STREAM = "lw:usage"

OK, STALE, REQUESTS, TOKENS, UNSEEDED, MONEY, BUDGET_TOKENS, TOO_MANY_TOKENS = range(8)

_CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_NEW_EPOCH = """
if not epoch then
  local moment = redis.call('TIME')
  epoch = redis.sha1hex(moment[1] .. '.' .. moment[2])
  redis.call('HSET', 'lw:versions', '@epoch', epoch)
end
"""

_EPOCH = "local epoch = redis.call('HGET', 'lw:versions', '@epoch')" + _NEW_EPOCH

# KEYS: versions, rate, budget. ARGV: 1 key id, 2 version, 3 requests a minute, 4 tokens a minute,
# 5 tokens expected (for the rate), 6 micro-dollars and 7 tokens at worst, 8 limit in micro-dollars,
# 9 limit in tokens, 10 reservation id, 11 its life in ms, 12 who and what.
# Answer: code, retry in ms or amount left, then of OK: requests left, tokens left, epoch.
RESERVE = (
    """
local known = redis.call('HMGET', KEYS[1], ARGV[1], '@epoch')
if known[1] ~= ARGV[2] then return {1, 0} end
local epoch = known[2]
"""
    + _CLOCK
    + """
local rpm, tpm = tonumber(ARGV[3]), tonumber(ARGV[4])
local limit_usd, limit_tok = tonumber(ARGV[8]), tonumber(ARGV[9])
local usd, tok = tonumber(ARGV[6]), tonumber(ARGV[7])
local requests_left, tokens_left = -1, -1
local limited = rpm >= 0 or tpm >= 0
local window, r0, r1, t0, t1, expected, fresh

-- Milliseconds until `before` has faded so far that `want` fits beside `running`.
local function retry(limit, before, running, want, elapsed)
  local room = limit - running - want
  if room >= 0 and before > 0 then
    return math.ceil(60000 * (1 - room / before)) - elapsed + 1
  end
  room = limit - want
  if running <= 0 or room < 0 then return 60000 - elapsed end
  return 60000 - elapsed + math.max(0, math.ceil(60000 * (1 - room / running))) + 1
end

if limited then
  window = math.floor(now / 60000)
  local elapsed = now - window * 60000
  local fade = 1 - elapsed / 60000
  local r = redis.call('HMGET', KEYS[2], 'w', 'r0', 'r1', 't0', 't1')
  local w = tonumber(r[1] or -9)
  fresh = w ~= window
  r0, r1, t0, t1 = 0, 0, 0, 0
  if w == window then
    r0, r1, t0, t1 = tonumber(r[2]), tonumber(r[3]), tonumber(r[4]), tonumber(r[5])
  elseif w == window - 1 then
    r0, t0 = tonumber(r[3]), tonumber(r[5])
  end
  expected = tonumber(ARGV[5])
  if rpm >= 0 then
    requests_left = math.floor(rpm - r0 * fade - r1 - 1)
    if requests_left < 0 then return {2, retry(rpm, r0, r1, 1, elapsed)} end
  end
  if tpm >= 0 and expected > 0 then
    if expected > tpm then return {7, tpm} end
    tokens_left = math.floor(tpm - t0 * fade - t1 - expected)
    if tokens_left < 0 then return {3, retry(tpm, t0, t1, expected, elapsed)} end
  end
end

local b = nil
if usd > 0 or tok > 0 or limit_usd >= 0 or limit_tok >= 0 then
  b = redis.call('HMGET', KEYS[3], 's', 'usd', 'rusd', 'tok', 'rtok')
  if not b[1] and (limit_usd >= 0 or limit_tok >= 0) then return {4, 0} end
  local left = limit_usd - tonumber(b[2] or 0) - tonumber(b[3] or 0)
  if limit_usd >= 0 and usd > 0 and left < usd then return {5, left} end
  left = limit_tok - tonumber(b[4] or 0) - tonumber(b[5] or 0)
  if limit_tok >= 0 and tok > 0 and left < tok then return {6, left} end
end

-- Nothing is written before every check has passed.
if limited then
  redis.call('HSET', KEYS[2], 'w', window, 'r0', r0, 'r1', r1 + 1, 't0', t0, 't1', t1 + expected)
  if fresh then redis.call('PEXPIRE', KEYS[2], 181000) end
end
"""
    + _NEW_EPOCH
    + """
if usd > 0 or tok > 0 then
  redis.call('HSET', KEYS[3], 'rusd', tonumber(b[3] or 0) + usd, 'rtok', tonumber(b[5] or 0) + tok)
  local rate = ''
  if tpm >= 0 then rate = KEYS[2] end
  redis.call('HSET', 'lw:reservations', ARGV[10],
    cmsgpack.pack({KEYS[3], usd, tok, rate, expected or 0, window or 0, ARGV[12], 0, 0, 0, 0}))
  redis.call('ZADD', 'lw:expiry', now + tonumber(ARGV[11]), ARGV[10])
end
return {0, 0, requests_left, tokens_left, epoch}
"""
)

_BOOK = """
-- Books what was used, gives back what was reserved, corrects the token rate, writes the record.
local function book(r, prompt, completion, cost)
  local used = prompt + completion
  local b = redis.call('HMGET', r[1], 'rusd', 'rtok', 'usd', 'tok', 'n')
  local n = tonumber(b[5] or 0) + 1
  redis.call('HSET', r[1], 'n', n,
    'rusd', tonumber(b[1] or 0) - r[2], 'rtok', tonumber(b[2] or 0) - r[3],
    'usd', tonumber(b[3] or 0) + cost, 'tok', tonumber(b[4] or 0) + used)
  if n % 64 == 1 then redis.call('EXPIRE', r[1], 3456000) end
  if r[4] ~= '' then
    local w = tonumber(redis.call('HGET', r[4], 'w') or -9)
    local field = nil
    if w == r[6] then field = 't1' elseif w == r[6] + 1 then field = 't0' end
    if field and redis.call('HINCRBY', r[4], field, used - r[5]) < 0 then
      redis.call('HSET', r[4], field, 0)
    end
  end
end
local function record(meta, prompt, completion, cached, cost, failures, requests)
  return redis.call('XADD', 'lw:usage', '*', 'm', meta, 'n',
    table.concat({requests, failures, prompt, completion, cached, cost}, ','))
end
"""

# ARGV: 1 reservation id, 2 epoch, 3 prompt, 4 completion, 5 cached, 6 cost, 7 failures, 8 who and
# what, 9 budget key, 10 whether this is surely the first try.
# Answer: 1 booked, 2 booked though the reservation was lost, 0 booked before.
SETTLE = (
    _BOOK
    + """
local prompt, completion, cached, cost, failures =
  tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local packed = redis.call('HGET', 'lw:reservations', ARGV[1])
if packed then
  redis.call('HDEL', 'lw:reservations', ARGV[1])
  redis.call('ZREM', 'lw:expiry', ARGV[1])
  book(cmsgpack.unpack(packed), prompt, completion, cost)
  record(ARGV[8], prompt, completion, cached, cost, failures, 1)
  return 1
end
local swept = redis.call('GET', 'lw:swept:' .. ARGV[1])
if swept then
  -- It was given up as abandoned with what was known then; book the difference.
  redis.call('DEL', 'lw:swept:' .. ARGV[1])
  local s = cmsgpack.unpack(swept)
  prompt, completion, cached, cost = prompt - s[1], completion - s[2], cached - s[3], cost - s[4]
  book({ARGV[9], 0, 0, '', 0, 0}, prompt, completion, cost)
  record(ARGV[8], prompt, completion, cached, cost, failures - 1, 0)
  return 2
end
"""
    + _EPOCH
    + """
if ARGV[10] ~= '1' and epoch == ARGV[2] then return 0 end
-- Redis lost the reservation, or the call was served while Redis was away.
if not redis.call('SET', 'lw:late:' .. ARGV[1], 1, 'NX', 'EX', 86400) then return 0 end
if prompt + completion > 0 or cost > 0 then
  book({ARGV[9], 0, 0, '', 0, 0}, prompt, completion, cost)
end
record(ARGV[8], prompt, completion, cached, cost, failures, 1)
return 2
"""
)

# A call without tokens or price: only the record. ARGV: 1 failures, 2 who and what.
NOTE = (
    _EPOCH
    + """
redis.call('XADD', 'lw:usage', '*', 'm', ARGV[2], 'n', '1,' .. ARGV[1] .. ',0,0,0,0')
return 1
"""
)

# The owner of a long call says it lives and what it has used so far. A reservation that Redis lost is
# made again, so that money in use stays out of reach of others.
# ARGV: 1 reservation id, 2 life in ms, 3 prompt, 4 completion, 5 cached, 6 cost, 7 key id, 8 version,
# 9 budget key, 10 micro-dollars and 11 tokens reserved, 12 who and what.
# Answer: 1 fine, 0 the reservation was given up, 2 the key was changed meanwhile.
HEARTBEAT = (
    _CLOCK
    + """
local packed = redis.call('HGET', 'lw:reservations', ARGV[1])
local r
if packed then
  r = cmsgpack.unpack(packed)
elseif redis.call('EXISTS', 'lw:swept:' .. ARGV[1]) == 1 then
  return 0
else
  r = {ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), '', 0, 0, ARGV[12], 0, 0, 0, 0}
  redis.call('HINCRBY', r[1], 'rusd', r[2])
  redis.call('HINCRBY', r[1], 'rtok', r[3])
end
r[8], r[9], r[10], r[11] = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
redis.call('HSET', 'lw:reservations', ARGV[1], cmsgpack.pack(r))
redis.call('ZADD', 'lw:expiry', now + tonumber(ARGV[2]), ARGV[1])
if redis.call('HGET', 'lw:versions', ARGV[7]) ~= ARGV[8] then return 2 end
return 1
"""
)

# Settles reservations whose owner is gone with what its last sign of life said. ARGV: 1 how many.
SWEEP = (
    _CLOCK
    + _BOOK
    + """
local ids = redis.call('ZRANGEBYSCORE', 'lw:expiry', '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  local packed = redis.call('HGET', 'lw:reservations', id)
  redis.call('HDEL', 'lw:reservations', id)
  redis.call('ZREM', 'lw:expiry', id)
  if packed then
    local r = cmsgpack.unpack(packed)
    book(r, r[8], r[9], r[11])
    record(r[7], r[8], r[9], r[10], r[11], 1, 1)
    redis.call('SET', 'lw:swept:' .. id, cmsgpack.pack({r[8], r[9], r[10], r[11]}), 'EX', 7200)
  end
end
return #ids
"""
)

# Sets a budget's settled sums from the ledger, unless something was settled since `n` was read.
# KEYS: budget. ARGV: 1 expected n, 2 micro-dollars, 3 tokens. Answer: 1 set, 0 try again.
SEED = """
if (redis.call('HGET', KEYS[1], 'n') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 's', 1, 'usd', ARGV[2], 'tok', ARGV[3])
redis.call('EXPIRE', KEYS[1], 3456000)
return 1
"""

# Publishes versions of keys; never goes back to an older one. ARGV: id, version, id, version, ...
PUBLISH = """
for i = 1, #ARGV, 2 do
  local known = tonumber(redis.call('HGET', 'lw:versions', ARGV[i]) or -1)
  if known < tonumber(ARGV[i + 1]) then
    redis.call('HSET', 'lw:versions', ARGV[i], ARGV[i + 1])
    if known >= 0 then redis.call('PUBLISH', 'lw:changed', ARGV[i]) end
  end
end
return #ARGV / 2
"""

SCRIPTS = {
    "reserve": RESERVE,
    "settle": SETTLE,
    "note": NOTE,
    "heartbeat": HEARTBEAT,
    "sweep": SWEEP,
    "seed": SEED,
    "publish": PUBLISH,
}
CHANGED = "lw:changed"
