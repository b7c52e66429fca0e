//! Tests of valid and invalid replies.

use super::*;

fn replies<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<ServerReply>, Option<ReplyError>) {
    let (mut answers, mut found) = (ReplyReader::new(), Vec::new());
    for piece in pieces {
        answers.feed(piece);
        while let Some(answer) = answers.next_reply() {
            match answer {
                Ok(answer) => found.push(answer),
                Err(error) => {
                    answers.feed(b"250 ok\r\n");
                    assert_eq!(
                        answers.next_reply(),
                        Some(Err(error)),
                        "an error is not the end"
                    );
                    return (found, Some(error));
                }
            }
        }
    }
    (found, None)
}

/// Reads at once, in every three chunks, and byte by byte.
fn replies_in_all_chunk_sizes(wire: &[u8]) -> (Vec<ServerReply>, Option<ReplyError>) {
    let at_once = replies([wire]);
    let shown = wire.escape_ascii();
    for first in 0..wire.len() {
        for second in first..wire.len() {
            let pieces = [&wire[..first], &wire[first..second], &wire[second..]];
            assert_eq!(replies(pieces), at_once, "{shown} cut at {first}, {second}");
        }
    }
    assert_eq!(replies(wire.chunks(1)), at_once, "{shown} byte by byte");
    at_once
}

fn answer(code: u16, wire: &'static [u8]) -> ServerReply {
    ServerReply {
        code,
        wire: Bytes::from_static(wire),
    }
}

#[test]
fn replies_are_exactly_as_received() {
    let cases: Vec<(&[u8], Vec<ServerReply>)> = vec![
        (b"", vec![]),
        (b"250 ok\r\n", vec![answer(250, b"250 ok\r\n")]),
        (b"250\r\n", vec![answer(250, b"250\r\n")]),
        (b"250 \r\n", vec![answer(250, b"250 \r\n")]),
        (
            b"250-\r\n250-a\r\n250\r\n",
            vec![answer(250, b"250-\r\n250-a\r\n250\r\n")],
        ),
        (
            b"354 go on\r\n250 2.0.0 kept\r\n",
            vec![
                answer(354, b"354 go on\r\n"),
                answer(250, b"250 2.0.0 kept\r\n"),
            ],
        ),
        (
            b"250-a\r\n250 b\r\n550 c\r\n25",
            vec![
                answer(250, b"250-a\r\n250 b\r\n"),
                answer(550, b"550 c\r\n"),
            ],
        ),
        (b"220 \xfcber\r\n", vec![answer(220, b"220 \xfcber\r\n")]),
        (b"599 \tx \r\n", vec![answer(599, b"599 \tx \r\n")]),
        (b"250-ok\r\n", vec![]),
        (b"250 ok\r", vec![]),
    ];
    for (wire, expected) in cases {
        assert_eq!(
            replies_in_all_chunk_sizes(wire),
            (expected, None),
            "{}",
            wire.escape_ascii()
        );
    }
}

#[test]
fn violations_of_the_grammar_are_errors() {
    use ReplyError::{BareLineBreak, DifferentCodes, NoCode};
    let cases: [(&[u8], usize, ReplyError); 36] = [
        (b"\r\n", 0, NoCode),
        (b"ok\r\n", 0, NoCode),
        (b"2\r\n", 0, NoCode),
        (b"25\r\n", 0, NoCode),
        (b"250ok\r\n", 0, NoCode),
        (b"2500 ok\r\n", 0, NoCode),
        (b"250\tok\r\n", 0, NoCode),
        (b"250_ok\r\n", 0, NoCode),
        (b"250- ok\r\n ok\r\n", 0, NoCode),
        (b" 250 ok\r\n", 0, NoCode),
        (b"-250 ok\r\n", 0, NoCode),
        (b"+25 ok\r\n", 0, NoCode),
        (b"2 0 ok\r\n", 0, NoCode),
        (b"25O ok\r\n", 0, NoCode),
        (b"000 ok\r\n", 0, NoCode),
        (b"099 ok\r\n", 0, NoCode),
        (b"100 ok\r\n", 0, NoCode),
        (b"199 ok\r\n", 0, NoCode),
        (b"600 ok\r\n", 0, NoCode),
        (b"999 ok\r\n", 0, NoCode),
        (b"\xff50 ok\r\n", 0, NoCode),
        ("２50 ok\r\n".as_bytes(), 0, NoCode),
        (b"HTTP/1.1 400 Bad Request\r\n", 0, NoCode),
        (b"250 ok\r\n\r\n", 1, NoCode),
        (b"250-ok\r\n251 ok\r\n", 0, DifferentCodes),
        (b"250-ok\r\n550 no\r\n", 0, DifferentCodes),
        (b"250-ok\r\n250-ok\r\n220\r\n", 0, DifferentCodes),
        (b"250-ok\r\n\r\n", 0, NoCode),
        (b"250 ok\n", 0, BareLineBreak),
        (b"\n", 0, BareLineBreak),
        (b"250-a\n250 b\r\n", 0, BareLineBreak),
        (b"250 a\r250 b\r\n", 0, BareLineBreak),
        (b"250 a\r\r\n", 0, BareLineBreak),
        (b"250 a\0b\r\n", 0, BareLineBreak),
        (b"250\0\r\n", 0, BareLineBreak),
        (b"250 ok\r\n250 ok\n\r\n", 1, BareLineBreak),
    ];
    for (wire, before, error) in cases {
        let (found, found_error) = replies_in_all_chunk_sizes(wire);
        assert_eq!(
            (found.len(), found_error),
            (before, Some(error)),
            "{}",
            wire.escape_ascii()
        );
    }
}

#[test]
fn lines_and_replies_are_limited() {
    let line = |bytes: usize| format!("250-{}\r\n", "x".repeat(bytes - 6)).into_bytes();
    let largest = [
        line(LONGEST_LINE).repeat(MOST_LINES - 1),
        b"250 end\r\n".to_vec(),
    ]
    .concat();
    let (found, error) = replies(largest.chunks(1000));
    assert_eq!((found.len(), error), (1, None));
    assert_eq!(found[0].wire, largest);
    assert_eq!(found[0].text_lines().count(), MOST_LINES);

    let many = line(6).repeat(MOST_LINES + 1);
    let errors: [(&[u8], ReplyError); 5] = [
        (&line(LONGEST_LINE + 1), ReplyError::LongLine),
        (&[b'2'; LONGEST_LINE], ReplyError::LongLine),
        (
            &[&[b'2'; LONGEST_LINE][..], b"\n"].concat(),
            ReplyError::LongLine,
        ),
        (
            &[&[b'2'; LONGEST_LINE - 1][..], b"\n"].concat(),
            ReplyError::BareLineBreak,
        ),
        (&many, ReplyError::ManyLines),
    ];
    for (wire, error) in errors {
        for step in [1, 7, 1000, wire.len()] {
            assert_eq!(
                replies(wire.chunks(step)),
                (vec![], Some(error)),
                "{error} in steps of {step}"
            );
        }
    }
}

#[test]
fn replies_have_a_class_and_a_status() {
    let kinds = |code: u16| {
        let answer = ServerReply {
            code,
            wire: Bytes::new(),
        };
        [
            answer.is_positive(),
            answer.is_intermediate(),
            answer.is_transient(),
            answer.is_permanent(),
        ]
    };
    for (code, at) in [
        (200, 0),
        (299, 0),
        (300, 1),
        (354, 1),
        (421, 2),
        (499, 2),
        (500, 3),
        (599, 3),
    ] {
        let mut expected = [false; 4];
        expected[at] = true;
        assert_eq!(kinds(code), expected, "{code}");
    }
}

#[test]
fn text_lines_have_no_codes() {
    let cases: [(&[u8], &[&str], Option<Enhanced>); 9] = [
        (b"250\r\n", &[""], None),
        (
            b"250-x.example\r\n250-SIZE 10\r\n250 DSN\r\n",
            &["x.example", "SIZE 10", "DSN"],
            None,
        ),
        (
            b"550 5.1.1 No such user\r\n",
            &["5.1.1 No such user"],
            Some(Enhanced(5, 1, 1)),
        ),
        (
            b"550-5.1.1 No\r\n550 5.1.1 user\r\n",
            &["5.1.1 No", "5.1.1 user"],
            Some(Enhanced(5, 1, 1)),
        ),
        (
            b"450 4.7.1 later\r\n",
            &["4.7.1 later"],
            Some(Enhanced(4, 7, 1)),
        ),
        (b"250 5.1.1 what\r\n", &["5.1.1 what"], None),
        (b"354 2.0.0 go on\r\n", &["2.0.0 go on"], None),
        (b"250 5.1\r\n", &["5.1"], None),
        (b"220 \xfcber\r\n", &["\u{fffd}ber"], None),
    ];
    for (wire, lines, enhanced) in cases {
        let (found, _) = replies([wire]);
        let shown = wire.escape_ascii();
        assert_eq!(found[0].text_lines().collect::<Vec<_>>(), lines, "{shown}");
        assert_eq!(found[0].enhanced(), enhanced, "{shown}");
    }
}

#[test]
fn bytes_sent_before_the_encryption_are_discarded() {
    let mut answers = ReplyReader::new();
    answers.feed(b"220 go\r\n250-injected\r\n250 ok");
    assert_eq!(answers.next_reply(), Some(Ok(answer(220, b"220 go\r\n"))));
    assert_eq!(answers.next_reply(), None);
    assert_eq!(answers.clear(), 20);
    answers.feed(b"550 no\r\n");
    assert_eq!(answers.next_reply(), Some(Ok(answer(550, b"550 no\r\n"))));
    assert_eq!((answers.next_reply(), answers.clear()), (None, 0));
    answers.feed(b"\n");
    answers.next_reply();
    answers.clear();
    answers.feed(b"250 ok\r\n");
    assert_eq!(answers.next_reply(), Some(Err(ReplyError::BareLineBreak)));
}
