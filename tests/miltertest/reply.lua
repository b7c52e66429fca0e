-- A message refused at its end with our text.
local c = connected()
must(mt.conninfo(c, "pc.corp.example", "192.0.2.7"), "connect")
message(c, "reply")
content(c)
expect_reply(c, SMFIR_REPLYCODE, "message")
expect_change(c, "the reply", MT_SMTPREPLY, "451", "4.3.0", "95%% full")
mt.disconnect(c)
