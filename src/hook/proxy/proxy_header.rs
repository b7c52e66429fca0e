//! The PROXY protocol: a load balancer declares the client of a connection (HAProxy, "The PROXY
//! protocol", versions 1 and 2).

use std::net::IpAddr;
use std::time::Duration;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::client::SessionEnd;

/// Longest header of version 1, in bytes.
const LINE: usize = 107;
/// Longest header of version 2 after its first 16 bytes.
const LONGEST: usize = 4096;
/// Timeout of the header, which comes at once.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the header and not a byte more. Returns the client's address: `None` if the header
/// describes no TCP connection, and the peer's own address for its own connection (a health check).
pub(super) async fn read_client_address<S: AsyncRead + Unpin>(
    stream: &mut S,
    peer: IpAddr,
    is_allowed: bool,
) -> Result<Option<IpAddr>, SessionEnd> {
    if !is_allowed {
        return Err(SessionEnd::ProxyHeader(format!(
            "{peer} is not in allow_xclient"
        )));
    }
    match timeout(TIMEOUT, read(stream, peer)).await {
        Ok(source) => source,
        Err(_) => Err(SessionEnd::ClientTimeout),
    }
}

async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    peer: IpAddr,
) -> Result<Option<IpAddr>, SessionEnd> {
    // A header of either version is longer than the signature of version 2.
    let mut header = vec![0; v2::PROTOCOL_PREFIX.len()];
    fill(stream, &mut header, 0).await?;
    if header == v2::PROTOCOL_PREFIX {
        let from = header.len();
        header.resize(from + 4, 0);
        fill(stream, &mut header, from).await?;
        let length = u16::from_be_bytes([header[from + 2], header[from + 3]]);
        let from = header.len();
        header.resize(from + usize::from(length).min(LONGEST), 0);
        fill(stream, &mut header, from).await?;
        return parse_v2(&header, peer);
    }
    // Byte by byte, since the bytes after it belong to SMTP or TLS.
    while header.starts_with(b"PROXY ") && !header.ends_with(b"\r\n") && header.len() < LINE {
        let from = header.len();
        header.push(0);
        fill(stream, &mut header, from).await?;
    }
    parse_v1(&header)
}

async fn fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    header: &mut [u8],
    from: usize,
) -> Result<(), SessionEnd> {
    let read = stream.read_exact(&mut header[from..]).await;
    read.map(|_| ())
        .map_err(|_| SessionEnd::ProxyHeader("incomplete".into()))
}

fn parse_v1(header: &[u8]) -> Result<Option<IpAddr>, SessionEnd> {
    let parsed =
        v1::Header::try_from(header).map_err(|cause| SessionEnd::ProxyHeader(cause.to_string()))?;
    Ok(match parsed.addresses {
        v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Unknown => None,
    })
}

fn parse_v2(header: &[u8], peer: IpAddr) -> Result<Option<IpAddr>, SessionEnd> {
    let parsed =
        v2::Header::try_from(header).map_err(|cause| SessionEnd::ProxyHeader(cause.to_string()))?;
    if parsed.command == v2::Command::Local {
        return Ok(Some(peer));
    }
    Ok(match parsed.addresses {
        v2::Addresses::IPv4(addresses) => Some(addresses.source_address.into()),
        v2::Addresses::IPv6(addresses) => Some(addresses.source_address.into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    async fn told(bytes: &[u8]) -> (Result<Option<IpAddr>, String>, Vec<u8>) {
        let mut rest = bytes;
        let source = read_client_address(&mut rest, PEER, true)
            .await
            .map_err(|ended| ended.to_string());
        (source, rest.to_vec())
    }

    #[tokio::test]
    async fn the_source_is_parsed_and_later_bytes_are_left() {
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
    async fn an_invalid_header_ends_the_connection() {
        for bytes in [
            &b"EHLO client.example\r\n"[..],
            b"PROXY TCP4 invalid_command\r\n",
            b"PROXY TCP4 192.0",
        ] {
            assert!(told(bytes).await.0.is_err(), "{bytes:?}");
        }
        let mut anything: &[u8] = b"PROXY UNKNOWN\r\n";
        let refused = read_client_address(&mut anything, PEER, false).await;
        assert!(matches!(refused, Err(SessionEnd::ProxyHeader(_))));
    }
}
