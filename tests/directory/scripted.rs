//! A server that does what no real one can be made to do: it gives the members of a group in ranges
//! unasked, as Active Directory does with more than 1,500 ([MS-ADTS] section 3.1.1.3.1.3.3), or
//! refuses searches with a code.
#![allow(dead_code, reason = "each test program needs one of the scripts")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// Values in one answer.
const AT_ONCE: usize = 1500;

/// A running server.
pub(crate) struct Scripted {
    port: u16,
}

impl Scripted {
    /// A server for one group `cn=all,dc=example,dc=test`, whose members `cn=0` … have the mail
    /// `0@example.test` …, until the test ends. `stops_at`: the value after which it has no more to
    /// give, though it said that there were more.
    pub(crate) fn with_group(members: usize, stops_at: Option<usize>) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || serve(stream, members, stops_at));
            }
        });
        Scripted { port }
    }

    /// A server that lets us in and then answers every search of people with this LDAP result code.
    pub(crate) fn refusing(code: u8) -> Scripted {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || refuse(stream, code));
            }
        });
        Scripted { port }
    }

    pub(crate) fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }
}

fn serve(mut stream: TcpStream, members: usize, stops_at: Option<usize>) -> Option<()> {
    loop {
        let (_, message) = read(&mut stream)?;
        let (_, id, rest) = take(&message)?;
        let (operation, content, _) = take(rest)?;
        match operation {
            // BindRequest
            0x60 => answer(&mut stream, id, 0x61, &result())?,
            // SearchRequest
            0x63 => {
                let (_, base, _) = take(content)?;
                let base = String::from_utf8_lossy(base).to_lowercase();
                // The attributes are the last field.
                let mut asked = content;
                let mut last: &[u8] = &[];
                while let Some((_, field, rest)) = take(asked) {
                    (last, asked) = (field, rest);
                }
                if let Some(entry) = entry(&base, last, members, stops_at) {
                    answer(&mut stream, id, 0x64, &entry)?;
                }
                answer(&mut stream, id, 0x65, &result())?;
            }
            _ => return None,
        }
    }
}

fn refuse(mut stream: TcpStream, code: u8) -> Option<()> {
    loop {
        let (_, message) = read(&mut stream)?;
        let (_, id, rest) = take(&message)?;
        let (operation, content, _) = take(rest)?;
        match operation {
            0x60 => answer(&mut stream, id, 0x61, &result())?,
            0x63 => {
                let (_, _, rest) = take(content)?;
                let (_, scope, _) = take(rest)?;
                // Only people are searched for below the base.
                let code = if scope == [2] { code } else { 0 };
                let result = [tlv(0x0a, &[code]), bytes(b""), bytes(b"scripted")].concat();
                answer(&mut stream, id, 0x65, &result)?;
            }
            _ => return None,
        }
    }
}

fn entry(base: &str, mut asked: &[u8], members: usize, stops_at: Option<usize>) -> Option<Vec<u8>> {
    let attributes = if let Some(name) = base.strip_prefix("cn=all,").map(|_| "member") {
        let mut from = 0;
        while let Some((_, attribute, rest)) = take(asked) {
            let text = String::from_utf8_lossy(attribute);
            if let Some(range) = text.strip_prefix("member;range=") {
                from = range.split('-').next()?.parse().ok()?;
            }
            asked = rest;
        }
        let end = (from + AT_ONCE).min(members);
        if stops_at.is_some_and(|stop| from >= stop) {
            return Some([bytes(base.as_bytes()), tlv(0x30, &[])].concat());
        }
        let upper = match end == members {
            true => "*".to_owned(),
            false => (end - 1).to_string(),
        };
        let values = (from..end).map(|n| format!("cn={n},dc=example,dc=test"));
        attribute(&format!("{name};range={from}-{upper}"), values)
    } else if let Some((n, _)) = base.strip_prefix("cn=")?.split_once(',') {
        attribute("mail", [format!("{n}@example.test")].into_iter())
    } else {
        return None;
    };
    Some([bytes(base.as_bytes()), tlv(0x30, &attributes)].concat())
}

fn attribute(name: &str, values: impl Iterator<Item = String>) -> Vec<u8> {
    let values: Vec<u8> = values.flat_map(|value| bytes(value.as_bytes())).collect();
    tlv(0x30, &[bytes(name.as_bytes()), tlv(0x31, &values)].concat())
}

/// Success, with neither DN nor text.
fn result() -> Vec<u8> {
    [tlv(0x0a, &[0]), bytes(b""), bytes(b"")].concat()
}

fn answer(stream: &mut TcpStream, id: &[u8], operation: u8, content: &[u8]) -> Option<()> {
    let message = [tlv(0x02, id), tlv(operation, content)].concat();
    stream.write_all(&tlv(0x30, &message)).ok()
}

fn bytes(value: &[u8]) -> Vec<u8> {
    tlv(0x04, value)
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("short").to_be_bytes();
    [&[tag, 0x84], &length[..], content].concat()
}

/// Tag and content of the first element, and what follows it.
fn take(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        length = bytes
            .iter()
            .fold(0, |all, byte| all << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn read(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let mut length = usize::from(head[1]);
    if head[1] & 0x80 != 0 {
        let mut bytes = vec![0; usize::from(head[1] & 0x7f)];
        stream.read_exact(&mut bytes).ok()?;
        length = bytes
            .iter()
            .fold(0, |all, byte| all << 8 | usize::from(*byte));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).ok()?;
    Some((head[0], content))
}
