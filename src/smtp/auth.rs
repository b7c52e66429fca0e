//! SMTP AUTH (RFC 4954): the user name in a client's responses, read while they are forwarded.
//!
//! Promises: returns the name and nothing else; no password is stored. A name is only a claim until
//! the server has replied 235. Unreadable responses give no name.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

/// Some servers accept responses without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the user name from the client's base64 responses in order, with the initial one if there
/// was one. `None` for mechanisms other than PLAIN, LOGIN, CRAM-MD5, SCRAM-*, XOAUTH2, OAUTHBEARER
/// and EXTERNAL, and for invalid responses.
pub fn parse_auth_user(mechanism: &str, responses: &[Bytes]) -> Option<String> {
    let response = decoded(responses.first()?)?;
    let user = match mechanism.to_ascii_uppercase().as_str() {
        "PLAIN" => plain(&response)?.to_vec(),
        // The responses are the name and the password. EXTERNAL: the one response is the name (RFC
        // 4422 appendix A).
        "LOGIN" | "EXTERNAL" => response,
        // The name may have spaces; the digest after the last space has none (RFC 2195).
        "CRAM-MD5" => response[..memchr::memrchr(b' ', &response)?].to_vec(),
        "XOAUTH2" => xoauth2(&response)?.to_vec(),
        "OAUTHBEARER" => {
            // GS2 header and fields with a 0x01 before each (RFC 7628 section 3.1).
            let header = response.split(|byte| *byte == 1).next()?;
            let (name, rest) = gs2(header)?;
            saslname(name.filter(|_| rest.is_empty())?)?
        }
        scram if scram.starts_with("SCRAM-") => {
            // RFC 5802 section 7. A field m= before n= is an unknown extension.
            let (_, bare) = gs2(&response)?;
            saslname(
                bare.split(|byte| *byte == b',')
                    .next()?
                    .strip_prefix(b"n=")?,
            )?
        }
        _ => return None,
    };
    let user = String::from_utf8(user).ok()?;
    (!user.is_empty() && !user.contains(char::is_control)).then_some(user)
}

fn decoded(response: &[u8]) -> Option<Vec<u8>> {
    match response {
        // An initial response of no bytes (RFC 4954 section 4).
        b"=" => Some(Vec::new()),
        response => BASE64.decode(response).ok(),
    }
}

/// Returns authcid of `[authzid] NUL authcid NUL passwd` (RFC 4616): the authenticated identity,
/// not the one it acts for.
fn plain(response: &[u8]) -> Option<&[u8]> {
    let mut parts = response.split(|byte| *byte == 0);
    let (_, user, _) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(user)
}

/// Returns NAME of `user=NAME 0x01 auth=Bearer TOKEN 0x01 0x01`.
fn xoauth2(response: &[u8]) -> Option<&[u8]> {
    let mut fields = response.split(|byte| *byte == 1);
    fields.find_map(|field| field.strip_prefix(b"user="))
}

/// Parses `n,a=NAME,` or `y,,` or `p=BINDING,,` (RFC 5801 section 4): returns the name, still
/// escaped, and the rest.
fn gs2(message: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let mut parts = message.splitn(3, |byte| *byte == b',');
    let (binding, name, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let known = matches!(binding, b"n" | b"y") || binding.starts_with(b"p=");
    let name = match name {
        b"" => None,
        name => Some(name.strip_prefix(b"a=")?),
    };
    known.then_some((name, rest))
}

/// Decodes a saslname: `=2C` is a comma and `=3D` an equals sign; no other escape is valid (RFC
/// 5801 section 4).
fn saslname(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(escaped.len());
    let mut parts = escaped.split(|byte| *byte == b'=');
    name.extend_from_slice(parts.next()?);
    for part in parts {
        let (byte, rest) = match part.split_at_checked(2)? {
            (b"2C", rest) => (b',', rest),
            (b"3D", rest) => (b'=', rest),
            _ => return None,
        };
        name.push(byte);
        name.extend_from_slice(rest);
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(mechanism: &str, responses: &[&[u8]]) -> Option<String> {
        let encoded = responses
            .iter()
            .map(|response| Bytes::from(BASE64.encode(response)));
        parse_auth_user(mechanism, &encoded.collect::<Vec<_>>())
    }

    #[test]
    fn the_user_is_found_for_each_mechanism() {
        let cases: [(&str, &[&[u8]], &str); 20] = [
            ("PLAIN", &[b"\0ana\0secret"], "ana"),
            (
                "plain",
                &[b"boss\0ana@corp.example\0secret"],
                "ana@corp.example",
            ),
            ("PLAIN", &["\0jürgen\0geheim".as_bytes()], "jürgen"),
            ("PLAIN", &[b"\0ana\0"], "ana"),
            ("LOGIN", &[b"ana", b"secret"], "ana"),
            ("Login", &[b"ana"], "ana"),
            ("LOGIN", &[b"CORP\\ana b", b"secret"], "CORP\\ana b"),
            (
                "CRAM-MD5",
                &[b"tim b913a602c7eda7a495b4e6e7334d3890"],
                "tim",
            ),
            (
                "CRAM-MD5",
                &[b"tim tom b913a602c7eda7a495b4e6e7334d3890"],
                "tim tom",
            ),
            (
                "SCRAM-SHA-1",
                &[b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"],
                "user",
            ),
            (
                "SCRAM-SHA-256",
                &[b"y,a=boss,n=a=2Cb=3Dc=2C,r=x", b"c=biws,r=x,p=v"],
                "a,b=c,",
            ),
            (
                "scram-sha-256-plus",
                &[b"p=tls-exporter,,n=ana@corp.example,r=x"],
                "ana@corp.example",
            ),
            ("SCRAM-SHA-1", &["n,,n=jürgen,r=x".as_bytes()], "jürgen"),
            (
                "XOAUTH2",
                &[b"user=ana@corp.example\x01auth=Bearer ya29.vF9dft\x01\x01"],
                "ana@corp.example",
            ),
            ("xoauth2", &[b"user=ana\x01\x01"], "ana"),
            (
                "OAUTHBEARER",
                &[b"n,a=ana@corp.example,\x01host=x\x01auth=Bearer t\x01\x01"],
                "ana@corp.example",
            ),
            (
                "OAUTHBEARER",
                &[b"y,a=a=2Cb,\x01auth=Bearer t\x01\x01"],
                "a,b",
            ),
            ("EXTERNAL", &[b"ana@corp.example"], "ana@corp.example"),
            ("External", &["jürgen".as_bytes()], "jürgen"),
            ("CRAM-MD5", &[b"ana "], "ana"),
        ];
        for (mechanism, responses, expected) in cases {
            let found = user(mechanism, responses);
            assert_eq!(
                found.as_deref(),
                Some(expected),
                "{mechanism} {responses:?}"
            );
        }
    }

    #[test]
    fn invalid_responses_yield_no_user_name() {
        let cases: [(&str, &[&[u8]]); 28] = [
            ("PLAIN", &[]),
            ("PLAIN", &[b""]),
            ("PLAIN", &[b"ana"]),
            ("PLAIN", &[b"\0ana"]),
            ("PLAIN", &[b"\0\0secret"]),
            ("PLAIN", &[b"\0ana\0sec\0ret"]),
            ("PLAIN", &[b"\0\xff\xfe\0secret"]),
            ("PLAIN", &[b"\0an\r\na\0secret"]),
            ("LOGIN", &[b"", b"secret"]),
            ("LOGIN", &[b"a\0na"]),
            ("CRAM-MD5", &[b"b913a602c7eda7a495b4e6e7334d3890"]),
            ("CRAM-MD5", &[b" b913a602c7eda7a495b4e6e7334d3890"]),
            ("SCRAM-SHA-1", &[b"n=user,r=x"]),
            ("SCRAM-SHA-1", &[b"n,,r=x,n=user"]),
            ("SCRAM-SHA-1", &[b"n,,m=x,n=user,r=x"]),
            ("SCRAM-SHA-1", &[b"x,,n=user,r=x"]),
            ("SCRAM-SHA-1", &[b"n,b=x,n=user,r=x"]),
            ("SCRAM-SHA-1", &[b"n,,n=us=er,r=x"]),
            ("SCRAM-SHA-1", &[b"n,,n=us=2cer,r=x"]),
            ("SCRAM-SHA-1", &[b"n,,n=user=,r=x"]),
            ("SCRAM-SHA-1", &[b"n,,n=user=2,r=x"]),
            ("XOAUTH2", &[b"auth=Bearer t\x01\x01"]),
            ("XOAUTH2", &[b"xuser=ana\x01auth=Bearer t\x01\x01"]),
            ("OAUTHBEARER", &[b"n,,\x01auth=Bearer t\x01\x01"]),
            ("OAUTHBEARER", &[b"n,a=ana\x01auth=Bearer t\x01\x01"]),
            ("EXTERNAL", &[b""]),
            ("GSSAPI", &[b"ana"]),
            ("", &[b"ana"]),
        ];
        for (mechanism, responses) in cases {
            assert_eq!(
                user(mechanism, responses),
                None,
                "{mechanism} {responses:?}"
            );
        }
    }

    #[test]
    fn responses_are_base64_and_a_lone_equals_sign_is_empty() {
        let user = |response: &'static str| parse_auth_user("LOGIN", &[Bytes::from(response)]);
        assert_eq!(user("YW5h").as_deref(), Some("ana"));
        assert_eq!(user("YW4=").as_deref(), Some("an"));
        assert_eq!(user("YW4").as_deref(), Some("an"));
        for not in [
            "", "=", "*", "YW5h\r\n", "YW 5h", "YW5", "Y", "an@a", "YW4=x", "====",
        ] {
            assert_eq!(user(not), None, "{not:?}");
        }
        assert_eq!(parse_auth_user("EXTERNAL", &[Bytes::from("=")]), None);
    }
}
