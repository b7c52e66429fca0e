//! The PROXY protocol: a load balancer in front says whose connection it passes on (HAProxy, "The PROXY protocol",
//! versions 1 and 2).

use std::net::IpAddr;
use std::time::Duration;

use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::client::Ended;

/// Longest header: version 2 with what else it may tell.
const LONGEST: usize = 4096;
/// It comes at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the header, and not an octet more. Gives the client's address; `None` where the header tells of no TCP connection,
/// and the peer's own for a connection of its own (a health check).
pub(super) async fn source<S: AsyncRead + Unpin>(
    stream: &mut S,
    peer: IpAddr,
    may_tell: bool,
) -> Result<Option<IpAddr>, Ended> {
    if !may_tell {
        return Err(Ended::Proxy(format!("{peer} is not in allow_xclient")));
    }
    match timeout(PATIENCE, read(stream, peer)).await {
        Ok(source) => source,
        Err(_) => Err(Ended::Silent),
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, peer: IpAddr) -> Result<Option<IpAddr>, Ended> {
    let mut header = Vec::with_capacity(256);
    loop {
        // Octet by octet: what follows belongs to SMTP or TLS. It happens once, and is in the system's buffer.
        match stream.read_u8().await {
            Ok(octet) => header.push(octet),
            Err(_) => return Err(Ended::Proxy("the connection ended within it".into())),
        }
        let parsed = HeaderResult::parse(&header);
        if parsed.is_incomplete() && header.len() < LONGEST {
            continue;
        }
        return match parsed {
            HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
                v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
                v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
                v1::Addresses::Unknown => None,
            }),
            HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(Some(peer)),
            HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
                v2::Addresses::IPv4(addresses) => Some(addresses.source_address.into()),
                v2::Addresses::IPv6(addresses) => Some(addresses.source_address.into()),
                v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
            }),
            HeaderResult::V1(Err(cause)) => Err(Ended::Proxy(cause.to_string())),
            HeaderResult::V2(Err(cause)) => Err(Ended::Proxy(cause.to_string())),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    async fn told(octets: &[u8]) -> (Result<Option<IpAddr>, String>, Vec<u8>) {
        let mut rest = octets;
        let source = source(&mut rest, PEER, true)
            .await
            .map_err(|ended| ended.to_string());
        (source, rest.to_vec())
    }

    #[tokio::test]
    async fn the_source_is_told_and_what_follows_is_left() {
        let first = b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\nEHLO x\r\n";
        assert_eq!(
            told(first).await,
            (Ok(Some([192, 0, 2, 1].into())), b"EHLO x\r\n".to_vec())
        );
        let sixth = b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 25\r\n";
        assert_eq!(
            told(sixth).await.0,
            Ok(Some("2001:db8::1".parse().expect("an address")))
        );
        assert_eq!(told(b"PROXY UNKNOWN\r\n").await.0, Ok(None));
        let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        second.extend([192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 0, 25, b'E']);
        assert_eq!(
            told(&second).await,
            (Ok(Some([192, 0, 2, 1].into())), b"E".to_vec())
        );
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert_eq!(told(local).await.0, Ok(Some(PEER)));
    }

    #[tokio::test]
    async fn what_is_no_header_ends_the_connection() {
        for octets in [
            &b"EHLO client.example\r\n"[..],
            b"PROXY TCP4 nonsense\r\n",
            b"PROXY TCP4 192.0",
        ] {
            assert!(told(octets).await.0.is_err(), "{octets:?}");
        }
        let mut anything: &[u8] = b"PROXY UNKNOWN\r\n";
        let refused = source(&mut anything, PEER, false).await;
        assert!(matches!(refused, Err(Ended::Proxy(_))));
    }
}
