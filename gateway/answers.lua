-- Turns away addresses that gRPC can not carry, takes JSON for JSON whatever it is called, keeps queries from overriding
-- what the path says, gives each answer the status and the body that the service meant, and says in our words what the
-- transcoder could not read.

local LIST = "^/v1/[^/]+$"
local CALLBACKS = {"^/v1/carriers/[^/]+/status$", "^/v1/carriers/[^/]+/inbound$"}
local CARRIERS = "/v1/carriers/"
local HEALTH = "/health/"
local API = "/v1/"
local GRPC = "application/grpc"
local UTF8 = {
  "[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]", "\240[\144-\191][\128-\191][\128-\191]",
  "[\241-\243][\128-\191][\128-\191][\128-\191]", "\244[\128-\143][\128-\191][\128-\191]",
}
-- For a service that failed without a word: RESOURCE_EXHAUSTED, UNAVAILABLE, DEADLINE_EXCEEDED and CANCELLED, which one that
-- stops may say, tell that the request is in order and is to be sent again; all else is a defect.
local OUTAGE = {"503", "unavailable", "A part of Textway can not be reached just now. Send the request again."}
local DEFECT = {"500", "internal", "Something went wrong inside Textway. Give the request id to whoever runs it."}
local SILENT = {["429"] = OUTAGE, ["499"] = OUTAGE, ["503"] = OUTAGE, ["504"] = OUTAGE}
local BODY = '{"error":"%s","message":"%s","requestId":"%s"}'

-- What a value must be, by the type that the transcoder misses in it; any other is that of an object.
local WANTED = {
  TYPE_STRING = "must be a string", TYPE_BOOL = "must be true or false",
  TYPE_INT32 = "must be a whole number below 2147483648", TYPE_INT64 = "must be a whole number",
  ["type.googleapis.com/google.protobuf.Timestamp"] = "must be a time such as 2026-06-12T14:32:00Z",
}
local ISSUE = '{"error":"validation_error","message":"%s","requestId":"%s","issues":[{"path":"%s","message":"%s"}]}'

local INTERNAL = {
  "x-http-status", "x-error-body", "grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding",
}

local function is_utf8(text)
  text = text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  for _, sequence in ipairs(UTF8) do text = text:gsub(sequence, "?") end
  return not text:find("[\128-\255]")
end

local function is_callback(path)
  return path:find(CALLBACKS[1]) or path:find(CALLBACKS[2])
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local address = headers:get(":path")
  if #address > 2048 then return handle:respond({[":status"] = "414"}, "") end
  if address:sub(1, #HEALTH) == HEALTH then  -- alone in answering HEAD, with which monitors ask
    handle:streamInfo():dynamicMetadata():set("textway", "head", headers:get(":method") == "HEAD")
  end
  -- What is called so passes the transcoder as it is, and gRPC's callers do not call these addresses.
  if (headers:get("content-type") or ""):sub(1, #GRPC) == GRPC and address:sub(1, #API) == API then
    headers:replace("content-type", "application/json")
  end
  -- Nothing is to be done about nearly all requests: no query, nothing quoted, no callback.
  if not address:find("[?%%]") and address:sub(1, #CARRIERS) ~= CARRIERS then return end
  local method = headers:get(":method")
  local path, query = address:match("^([^?]*)(.*)$")
  if is_callback(path) then
    -- What a carrier signs, byte for byte, in headers of our own: envoy.yaml drops what a client sends under these names.
    headers:replace("x-textway-method", method)
    if #query > 1 then headers:replace("x-textway-query", query:sub(2)) end
    address = path
  end
  if address:find("%%[89a-fA-F]") and not is_utf8(address) then return handle:respond({[":status"] = "400"}, "") end
  -- The transcoder lets a query parameter override a path variable, so that only lists, which have none, keep theirs.
  if query ~= "" and not (method == "GET" and path:find(LIST)) then headers:replace(":path", path) end
end

-- JSON's own marks, and bytes that may be half a character, would break the answer.
local function quoted(text)
  return (text:gsub("[^\32-\126]", "?"):gsub('[\\"]', "\\%0"))
end

-- Which field the transcoder means and what is wrong with it; nil when it speaks of no field.
local function issue(words)
  local field, wanted = words:match("^([^:%s]*): invalid value .* for type (%S+)$")
  local twice = words:match("is already set%. Cannot set '([^']+)'")
  if twice then return twice, "is there twice" end
  if field == "" then return wanted, "must not be an object" end  -- it then names the field in the type's place
  if field then
    local problem = WANTED[wanted] or "must be an object"
    local list, inside = field:gsub("%[%d+%]", "")  -- whichever value of a list it is, the transcoder says [0]
    return list, inside > 0 and "has a value that " .. problem or problem
  end
  if words:find("cannot start list") then return "", "a field has an array in the place of one value" end
  local bound = words:match("^The binding value .* of the field (%S+) is conflicting ")
  if bound then return bound, "must be left out, or be what the address says" end
end

-- What is wrong with the JSON, and before what.
local function flaw(words)
  if words:find("Root element") then return "is no JSON object" end
  if words:find("^Message too deep") then return "is nested too deep" end
  local problem, context, caret = words:match("^([^\n]*)%.\n(.*)\n( *)%^$")
  if not problem then return "is no valid JSON" end
  local rest = context:sub(#caret + 1)
  local place = rest == "" and "at its end" or "before `" .. rest .. "`"
  return "is no valid JSON " .. place .. ": " .. problem:sub(1, 1):lower() .. problem:sub(2)
end

-- The answer to what the transcoder can not read, by its own words for it.
local function unreadable(part, words, request_id)
  local path, problem = issue(words)
  if path then
    path = quoted(path:gsub("_(%l)", string.upper))
    local message = path == "" and problem:gsub("^%l", string.upper) or path .. ": " .. problem
    return ISSUE:format(message .. ".", request_id, path, problem)
  end
  if part == "query" then return ISSUE:format("The query can not be read.", request_id, "", "can not be read") end
  local message = "The body " .. quoted(flaw(words)) .. ". Send one JSON object in UTF-8."
  return BODY:format("invalid_json", message, request_id)
end

-- To HEAD goes all but the body, which Envoy would send: to it the request is the POST that the transcoder has made of it.
local function is_head(handle, route)
  return route:get("head") and handle:streamInfo():dynamicMetadata():get("textway")["head"]
end

local function empty(handle)
  for chunk in handle:bodyChunks() do chunk:setBytes("") end
end

function envoy_on_response(handle)
  local headers, route = handle:headers(), handle:metadata()
  local request_id = headers:get("x-request-id")
  if request_id then  -- Envoy's own answer has its shape already, or needs but that
    local part = headers:get("x-unreadable")
    headers:remove("x-unreadable")
    if is_head(handle, route) then return empty(handle) end
    if not part then return end
    local body = handle:body(true)
    body:setBytes(unreadable(part, body:getBytes(0, body:length()), request_id))
    return
  end
  local failed = headers:get(":status") ~= "200"
  local status, body = headers:get("x-http-status"), headers:get("x-error-body")
  -- A route may say what success is, so that the service need not (docs/decisions/0028).
  if not failed and not status then status = route:get("success") end
  if failed and not body then
    local answer = SILENT[headers:get(":status")] or DEFECT
    request_id = handle:streamInfo():dynamicMetadata():get("textway")["request_id"]
    status, body = answer[1], BODY:format(answer[2], answer[3], request_id)
    if answer == OUTAGE then headers:replace("retry-after", "1") end
  end
  for _, name in ipairs(INTERNAL) do headers:remove(name) end
  if status then headers:replace(":status", status) end
  if status == "204" then  -- HTTP wants no content here, nor a word about it; the transcoder writes {}
    headers:remove("content-type")
    headers:remove("content-length")
    empty(handle)
  end
  if failed then headers:replace("content-type", "application/json") end
  if is_head(handle, route) then
    empty(handle)
  elseif failed then
    handle:body(true):setBytes(body)
  end
end
