-- Every edit that miltertest understands.
local c = connected()
must(mt.conninfo(c, "localhost", "unspec"), "connect")
message(c, "edit")
content(c)
expect_reply(c, SMFIR_ACCEPT, "message")
expect_change(c, "field added", MT_HDRADD, "X-Added", " 1")
expect_change(c, "field inserted", MT_HDRINSERT, "X-Top", " 2", 0)
expect_change(c, "field changed", MT_HDRCHANGE, "Subject", " new")
expect_change(c, "field deleted", MT_HDRDELETE, "X-Gone")
expect_change(c, "body replaced", MT_BODYCHANGE, "new\r\n")
expect_change(c, "recipient added", MT_RCPTADD, "<c@d.example>")
expect_change(c, "recipient deleted", MT_RCPTDELETE, "<bo@x.example>")
if mt.eom_check(c, MT_QUARANTINE) then
    error("quarantined")
end
mt.disconnect(c)
