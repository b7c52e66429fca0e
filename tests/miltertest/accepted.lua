-- Negotiation, and a whole message accepted.
local c = connected()
must(mt.negotiate(c, 6, nil, nil), "negotiate")
for _, step in ipairs({SMFIP_NR_CONN, SMFIP_NR_HELO, SMFIP_NR_MAIL, SMFIP_NR_HDR, SMFIP_NR_EOH,
                       SMFIP_NR_BODY, SMFIP_HDR_LEADSPC, SMFIP_NODATA, SMFIP_NOUNKNOWN}) do
    if not mt.test_option(c, step) then
        error("not asked for: step " .. step)
    end
end
for _, step in ipairs({SMFIP_NOCONNECT, SMFIP_NOHELO, SMFIP_NOMAIL, SMFIP_NORCPT, SMFIP_NOHDRS,
                       SMFIP_NOEOH, SMFIP_NOBODY, SMFIP_NR_RCPT, SMFIP_RCPT_REJ}) do
    if mt.test_option(c, step) then
        error("asked for: step " .. step)
    end
end
for _, action in ipairs({SMFIF_ADDHDRS, SMFIF_CHGHDRS, SMFIF_CHGBODY, SMFIF_ADDRCPT, SMFIF_DELRCPT}) do
    if not mt.test_action(c, action) then
        error("not asked for: action " .. action)
    end
end
if mt.test_action(c, SMFIF_CHGFROM) then
    error("asked for: change the sender")
end
must(mt.conninfo(c, "pc.corp.example", "192.0.2.7"), "connect")
must(mt.helo(c, "pc.corp.example"), "HELO")
message(c, "accept")
expect_reply(c, SMFIR_CONTINUE, "recipient")
content(c)
expect_reply(c, SMFIR_ACCEPT, "message")
mt.disconnect(c)
