//! Tests of valid and invalid commands.

use super::*;

fn parse(line: &str) -> Command {
    Command::parse(line.as_bytes())
}

fn mail(path: &str, params: &[&str]) -> Command {
    Command::Mail {
        path: path.to_owned(),
        params: params.iter().map(|param| (*param).to_owned()).collect(),
    }
}

fn rcpt(path: &str, params: &[&str]) -> Command {
    match mail(path, params) {
        Command::Mail { path, params } => Command::Rcpt { path, params },
        other => other,
    }
}

fn auth(mechanism: &str, initial: Option<&str>) -> Command {
    Command::Auth {
        mechanism: mechanism.to_owned(),
        initial: initial.map(str::to_owned),
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn commands_ignore_case() {
    let cases = [
        (
            "EHLO client.example",
            Command::Ehlo("client.example".into()),
        ),
        (
            "ehlo [IPv6:2001:db8::1]",
            Command::Ehlo("[IPv6:2001:db8::1]".into()),
        ),
        (
            "EHLO bücher.example",
            Command::Ehlo("bücher.example".into()),
        ),
        ("Helo x  ", Command::Helo("x".into())),
        ("DATA", Command::Data),
        ("data  ", Command::Data),
        ("RSET", Command::Rset),
        ("rset ", Command::Rset),
        ("NOOP", Command::Noop),
        ("NOOP what ever", Command::Noop),
        ("QUIT", Command::Quit),
        ("VRFY ana", Command::Vrfy),
        ("EXPN list", Command::Expn),
        ("HELP", Command::Help),
        ("Help DATA", Command::Help),
        ("STARTTLS", Command::StartTls),
        ("starttls ", Command::StartTls),
        (
            "BDAT 0",
            Command::Bdat {
                bytes: 0,
                last: false,
            },
        ),
        (
            "bdat 86 last",
            Command::Bdat {
                bytes: 86,
                last: true,
            },
        ),
        (
            "BDAT 18446744073709551615",
            Command::Bdat {
                bytes: u64::MAX,
                last: false,
            },
        ),
        ("AUTH LOGIN", auth("LOGIN", None)),
        (
            "auth plain AGFuYQBzZWNyZXQ=",
            auth("plain", Some("AGFuYQBzZWNyZXQ=")),
        ),
        ("AUTH EXTERNAL =", auth("EXTERNAL", Some("="))),
        ("AUTH SCRAM-SHA-256-PLUS", auth("SCRAM-SHA-256-PLUS", None)),
    ];
    for (line, expected) in cases {
        assert_eq!(parse(line), expected, "{line:?}");
    }
}

#[test]
fn paths_are_as_written() {
    let cases = [
        ("MAIL FROM:<>", mail("", &[])),
        (
            "MAIL FROM:<Ana@Corp.Example>",
            mail("Ana@Corp.Example", &[]),
        ),
        (
            "mail from:<a@b> SIZE=3 body=8BITMIME",
            mail("a@b", &["SIZE=3", "body=8BITMIME"]),
        ),
        ("MAIL FROM: <a@b>", mail("a@b", &[])),
        ("MAIL FROM:a@b", mail("a@b", &[])),
        ("mail from:  a.b+c@b SIZE=3", mail("a.b+c@b", &["SIZE=3"])),
        ("MAIL FROM:root", mail("root", &[])),
        ("RCPT TO:c@d", rcpt("c@d", &[])),
        ("MAIL FROM:a@[127.0.0.1]", mail("a@[127.0.0.1]", &[])),
        ("MAIL FROM:   <a@b>  SIZE=3  ", mail("a@b", &["SIZE=3"])),
        (
            "MAIL FROM:<a@b> AUTH=<> XOORG= RET=HDRS",
            mail("a@b", &["AUTH=<>", "XOORG=", "RET=HDRS"]),
        ),
        (
            "MAIL FROM:<jürgen@bücher.example> SMTPUTF8",
            mail("jürgen@bücher.example", &["SMTPUTF8"]),
        ),
        ("MAIL FROM:<a@[IPv6:::1]>", mail("a@[IPv6:::1]", &[])),
        (
            "MAIL FROM:<\"x> SIZE=1\"@d> SIZE=2",
            mail("\"x> SIZE=1\"@d", &["SIZE=2"]),
        ),
        ("MAIL FROM:<\"\\\">\"@d>", mail("\"\\\">\"@d", &[])),
        ("MAIL FROM:<\"\\\\\"@d>", mail("\"\\\\\"@d", &[])),
        ("MAIL FROM:<\"<a@b>\"@d>", mail("\"<a@b>\"@d", &[])),
        ("MAIL FROM:<\"ü\\ü\"@d>", mail("\"ü\\ü\"@d", &[])),
        ("MAIL FROM:<\"a\".\"b c\"@d>", mail("\"a\".\"b c\"@d", &[])),
        ("MAIL FROM:<=?utf-8?Q?a?=@d>", mail("=?utf-8?Q?a?=@d", &[])),
        ("RCPT TO:<Postmaster>", rcpt("Postmaster", &[])),
        ("rcpt to:<\"postmaster\">", rcpt("\"postmaster\"", &[])),
        (
            "RCPT TO: <c@d> NOTIFY=NEVER ORCPT=rfc822;c+2Bx@d",
            rcpt("c@d", &["NOTIFY=NEVER", "ORCPT=rfc822;c+2Bx@d"]),
        ),
        (
            "RCPT TO:<@a.example,@b.example:c@d>",
            rcpt("@a.example,@b.example:c@d", &[]),
        ),
        ("RCPT TO:<@a:\"c>\"@d>", rcpt("@a:\"c>\"@d", &[])),
        ("RCPT TO:<no at all>x", Command::Malformed),
    ];
    for (line, expected) in cases {
        assert_eq!(parse(line), expected, "{line:?}");
    }
}

#[test]
fn invalid_arguments_are_malformed() {
    let cases = [
        "EHLO",
        "EHLO ",
        "EHLO  x",
        "HELO",
        "HELO a b",
        "EHLO a b",
        "MAIL",
        "MAIL FROM",
        "MAIL FROM:",
        "MAIL FROM: ",
        "MAIL  FROM:<a@b>",
        "MAIL FROM :<a@b>",
        "MAIL TO:<a@b>",
        "MAIL <a@b>",
        "MAIL FROM:a@b>",
        "MAIL FROM:a@b<c@d>",
        "MAIL FROM:a@b,c@d",
        "MAIL FROM:a@b@c",
        "MAIL FROM:\"a\"@b",
        "MAIL FROM:a\\@b",
        "MAIL FROM:a(b)@c",
        "MAIL FROM:a@[b",
        "MAIL FROM:@b",
        "MAIL FROM:SIZE=3 a@b",
        "MAIL FROM:ä@b",
        "MAIL FROM:<a@b",
        "MAIL FROM:<a@b SIZE=3",
        "MAIL FROM:Ana <a@b>",
        "MAIL FROM:<a@b>SIZE=3",
        "MAIL FROM:<a@b>>",
        "MAIL FROM:<a@b> <c@d>",
        "MAIL FROM:<a@b> =3",
        "MAIL FROM:<a@b> -X=3",
        "MAIL FROM:<a@b> SIZE:3",
        "MAIL FROM:<a@b> SÏZE=3",
        "MAIL FROM:<a@b> SIZE=3 \"x",
        "MAIL FROM:<<a@b>>",
        "MAIL FROM:<a<@b>",
        "MAIL FROM:< >",
        "MAIL FROM:<a b@c>",
        "MAIL FROM:<a@b >",
        "MAIL FROM:< a@b>",
        "MAIL FROM:<\"a@b>",
        "MAIL FROM:<\"a\"b@c>",
        "MAIL FROM:<a\"b\"@c>",
        "MAIL FROM:<a\">\"@c>",
        "MAIL FROM:<\"a\" @c>",
        "MAIL FROM:<\"a\"\"b\"@c>",
        "MAIL FROM:<a\\>@b>",
        "MAIL FROM:<\\\"a@b>",
        "MAIL FROM:<a\\@b@c>",
        "MAIL FROM:<\"a\\\"@b>",
        "MAIL FROM:<\"a\\",
        "MAIL FROM:<\"",
        "MAIL FROM:<a@[1>2]>",
        "MAIL FROM:\u{a0}<a@b>",
        "MAIL FRÖM:<a@b>",
        "MAIL FROMÜ<a@b>",
        "RCPT",
        "RCPT TO:",
        "RCPT TO:<>",
        "RCPT TO:<> NOTIFY=NEVER",
        "RCPT FROM:<a@b>",
        "RCPT TO <c@d>",
        "DATA x",
        "RSET x",
        "QUIT now",
        "STARTTLS x",
        "BDAT",
        "BDAT ",
        "BDAT LAST",
        "BDAT x",
        "BDAT -1",
        "BDAT +1",
        "BDAT 1 2",
        "BDAT 1  LAST",
        "BDAT  1",
        "BDAT 1x",
        "BDAT 1 LAST x",
        "BDAT 1 LASTX",
        "BDAT 0x10",
        "BDAT 1.0",
        "BDAT 18446744073709551616",
        "BDAT ١",
        "BDAT 1,LAST",
        "AUTH",
        "AUTH ",
        "AUTH  PLAIN",
        "AUTH PLAIN a b",
        "AUTH PLAIN  a",
        "AUTH PLÄIN",
        "AUTH PLAIN=x",
        "AUTH A23456789012345678901",
        "XCLIENT",
        "XCLIENT ",
        "XCLIENT NAME",
        "XCLIENT =x",
        "XCLIENT NAME=a=b",
        "XCLIENT NAME=a+",
        "XCLIENT NAME=a+2",
        "XCLIENT NAME=a+2b",
        "XCLIENT NAME=a+0A",
        "XCLIENT NAME=a+0D+0AMAIL",
        "XCLIENT NAME=a+00",
        "XCLIENT NAME=+7F",
        "XCLIENT NAME=+FF",
        "XCLIENT NAME=+C3",
        "XCLIENT NAME=+C2+85",
        "XCLIENT NAME=++2B",
        "XCLIENT NAME=+-1",
        "XCLIENT NAME=++1",
        "XCLIENT NAME=a+ü",
        "XCLIENT N+41ME=a",
        "XCLIENT NAME=a ADDR",
        "XFORWARD",
        "XFORWARD NAME",
        "XFORWARD NAME=a+zz",
    ];
    for line in cases {
        assert_eq!(parse(line), Command::Malformed, "{line:?}");
    }
}

#[test]
fn other_commands_are_unknown() {
    let cases = [
        "",
        " ",
        "LHLO x",
        "ETRN x",
        "TURN",
        "SEND FROM:<a@b>",
        "SAML FROM:<a@b>",
        "BURL imap://x LAST",
        "XEXCH50 1 2",
        "X-ANONYMOUSTLS",
        "MAILFROM:<a@b>",
        "DATAX",
        "DAT",
        " DATA",
        " MAIL FROM:<a@b>",
        "GET / HTTP/1.1",
        "EHLO\u{a0}x",
        "ＤＡＴＡ",
        "MAİL FROM:<a@b>",
        "BDAT\u{2003}1",
        "XCLIENTS NAME=a",
    ];
    for line in cases {
        assert_eq!(parse(line), Command::Unknown, "{line:?}");
    }
}

#[test]
fn control_characters_and_invalid_utf8_are_malformed() {
    let lines = [
        "EHLO x",
        "MAIL FROM:<a@b> SIZE=3",
        "RCPT TO:<\"c d\"@e>",
        "DATA",
        "BDAT 1 LAST",
        "NOOP x",
        "AUTH PLAIN AA==",
        "XCLIENT NAME=x",
        "WHAT EVER",
        "",
    ];
    for line in lines {
        for at in 0..=line.len() {
            for control in (0..32).chain([127, 0x80, 0xff, 0xc3]) {
                let mut bytes = line.as_bytes().to_vec();
                bytes.insert(at, control);
                let shown = bytes.escape_ascii();
                assert_eq!(Command::parse(&bytes), Command::Malformed, "{shown}");
            }
        }
    }
}

#[test]
fn attributes_are_decoded() {
    let cases: [(&str, &[(&str, &str)]); 9] = [
        (
            "NAME=spike.porcupine.org ADDR=168.100.189.2",
            &[("NAME", "spike.porcupine.org"), ("ADDR", "168.100.189.2")],
        ),
        ("name=[UNAVAILABLE] Reverse_NAME=x", &[]),
        (
            "NAME=[UNAVAILABLE] HELO=[tempunavail]",
            &[("NAME", ""), ("HELO", "")],
        ),
        (
            "ADDR=IPV6:2001:db8::1 PORT=12345 PROTO=ESMTP",
            &[
                ("ADDR", "IPV6:2001:db8::1"),
                ("PORT", "12345"),
                ("PROTO", "ESMTP"),
            ],
        ),
        ("LOGIN=a+2Bb+3Dc+20d", &[("LOGIN", "a+b=c d")]),
        ("login=j+C3+BCrgen", &[("LOGIN", "jürgen")]),
        ("login=jürgen", &[("LOGIN", "jürgen")]),
        (
            "IDENT=  SOURCE=LOCAL",
            &[("IDENT", ""), ("SOURCE", "LOCAL")],
        ),
        ("NAME=[UNAVAILABLE]x", &[("NAME", "[UNAVAILABLE]x")]),
    ];
    for (attributes, expected) in cases {
        let expected = match expected {
            [] => [Command::Malformed, Command::Malformed],
            expected => [
                Command::Xclient(pairs(expected)),
                Command::Xforward(pairs(expected)),
            ],
        };
        let found = ["XCLIENT", "xforward"].map(|verb| parse(&format!("{verb} {attributes}")));
        assert_eq!(found, expected, "{attributes:?}");
    }
}

#[test]
fn an_initial_response_is_not_shown() {
    let shown = format!("{:?}", parse("AUTH PLAIN AGFuYQBzZWNyZXQ="));
    assert_eq!(shown, "Auth { mechanism: \"PLAIN\", .. }");
}

#[test]
fn a_path_without_brackets_is_forwarded_with_them() {
    for (line, passed) in [
        ("MAIL FROM:a@b", "MAIL FROM:<a@b>"),
        (
            "mail From:  a@b SIZE=3  RET=HDRS",
            "mail From:<a@b> SIZE=3  RET=HDRS",
        ),
        ("MAIL FROM:<a@b> X=<c>", "MAIL FROM:<a@b> X=<c>"),
        ("RCPT TO:  <\"a b\"@c>", "RCPT TO:  <\"a b\"@c>"),
        (
            "RCPT TO:a@[IPv6:::1] NOTIFY=NEVER",
            "RCPT TO:<a@[IPv6:::1]> NOTIFY=NEVER",
        ),
    ] {
        let read = Command::parse(line.as_bytes());
        let passed_on = add_brackets(&Bytes::copy_from_slice(line.as_bytes()));
        assert_eq!(passed_on, passed);
        assert_eq!(Command::parse(&passed_on), read, "{line}");
        assert_ne!(read, Command::Malformed, "{line}");
    }
}
