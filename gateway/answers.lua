-- Turns away addresses that gRPC can not carry, keeps queries from overriding what the path says, and gives each answer
-- the status and the body that the service meant.

local LIST = "^/v1/[^/]+$"
local CALLBACKS = {"^/v1/carriers/[^/]+/status$", "^/v1/carriers/[^/]+/inbound$"}
local CARRIERS = "/v1/carriers/"
local UTF8 = {
  "[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]", "\240[\144-\191][\128-\191][\128-\191]",
  "[\241-\243][\128-\191][\128-\191][\128-\191]", "\244[\128-\143][\128-\191][\128-\191]",
}
-- For a service that failed without a word: RESOURCE_EXHAUSTED, UNAVAILABLE and DEADLINE_EXCEEDED say that the request is
-- in order and nothing came of it, all else is a defect.
local OUTAGE = {"503", "unavailable", "A part of Textway can not be reached just now. Send the request again."}
local DEFECT = {"500", "internal", "Something went wrong inside Textway. Give the request id to whoever runs it."}
local SILENT = {["429"] = OUTAGE, ["503"] = OUTAGE, ["504"] = OUTAGE}
local BODY = '{"error":"%s","message":"%s","requestId":"%s"}'

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

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("x-request-id") then return end  -- Envoy's own answer has its shape already
  local failed = headers:get(":status") ~= "200"
  local status, body = headers:get("x-http-status"), headers:get("x-error-body")
  -- A route may say what success is, so that the service need not (docs/decisions/0028).
  if not failed and not status then status = handle:metadata():get("success") end
  if failed and not body then
    local answer = SILENT[headers:get(":status")] or DEFECT
    local request_id = handle:streamInfo():dynamicMetadata():get("textway")["request_id"]
    status, body = answer[1], BODY:format(answer[2], answer[3], request_id)
    if answer == OUTAGE then headers:replace("retry-after", "1") end
  end
  for _, name in ipairs(INTERNAL) do headers:remove(name) end
  if status then headers:replace(":status", status) end
  if status == "204" then  -- HTTP wants no content here, nor a word about it; the transcoder writes {}
    headers:remove("content-type")
    headers:remove("content-length")
    for chunk in handle:bodyChunks() do chunk:setBytes("") end
  end
  if failed then
    headers:replace("content-type", "application/json")
    handle:body(true):setBytes(body)
  end
end
