-- Runs the script named by -D script=FILE and says why it failed, which miltertest itself does not.
--
-- miltertest has the arguments of mt.negotiate in another order than its manual: version, steps, actions.

-- Fails the script if a miltertest call did not work; they return nil or a sentence.
function must(result, what)
    if result ~= nil then
        error(what .. ": " .. tostring(result), 2)
    end
end

function connected()
    local connection = mt.connect("inet:" .. port .. "@127.0.0.1")
    if connection == nil then
        error("cannot connect to port " .. port, 2)
    end
    return connection
end

function expect_reply(connection, expected, what)
    local reply = mt.getreply(connection)
    if reply ~= expected then
        error(what .. ": reply " .. string.char(reply) .. ", expected " .. string.char(expected), 2)
    end
end

function expect_change(connection, what, ...)
    if not mt.eom_check(connection, ...) then
        error("not told to the MTA: " .. what, 2)
    end
end

-- A message up to its content; the test handler decides by the local part of the sender.
function message(connection, sender, recipient)
    must(mt.macro(connection, SMFIC_MAIL, "i", "queue-" .. sender), "macro")
    must(mt.mailfrom(connection, "<" .. sender .. "@corp.example>", "SIZE=100"), "MAIL")
    must(mt.rcptto(connection, "<" .. (recipient or "bo@x.example") .. ">"), "RCPT")
end

function content(connection)
    must(mt.header(connection, "From", "Ana <ana@corp.example>"), "header")
    must(mt.header(connection, "Subject", "folded\n\there"), "header")
    must(mt.eoh(connection), "end of header")
    must(mt.bodystring(connection, "one\r\n"), "body")
    must(mt.bodystring(connection, "two\r\n"), "body")
    must(mt.eom(connection), "end of message")
end

local worked, reason = pcall(dofile, script)
if not worked then
    mt.echo(tostring(reason))
    error(reason)
end
