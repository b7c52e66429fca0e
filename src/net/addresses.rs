//! Connecting to a server at any of the addresses that its name has.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;

/// Time for an address to answer before the next one is tried in parallel (RFC 8305 section 8).
const HEAD_START: Duration = Duration::from_millis(250);

/// A server, named by host and port.
#[derive(Debug)]
pub struct Server {
    host: String,
    port: u16,
    /// The address of the last session.
    last_used: Mutex<Option<SocketAddr>>,
}

/// Error of connecting to a server at each of its addresses.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError<E: Display> {
    /// No address answered, or the name has none.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// An address answered, but no session could be opened.
    #[error("{0}")]
    Session(E),
}

impl Server {
    /// Creates a server from its name or its IP address without brackets.
    pub fn new(host: &str, port: u16) -> Server {
        Server {
            host: host.to_owned(),
            port,
            last_used: Mutex::default(),
        }
    }

    /// Returns the server that an LDAP URL names; `None` for a local socket.
    pub fn from_ldap_url(url: &str) -> Option<Server> {
        let url = url::Url::parse(url).ok()?;
        let port = match url.scheme() {
            "ldap" => 389,
            "ldaps" => 636,
            _ => return None,
        };
        let host = match url.host_str() {
            None | Some("") => "localhost",
            Some(host) => host.trim_start_matches('[').trim_end_matches(']'),
        };
        Some(Server::new(host, url.port().unwrap_or(port)))
    }

    /// Connects to the first of the server's addresses that answers.
    pub async fn connect(&self, timeout: Duration) -> io::Result<TcpStream> {
        let bare = |tcp| std::future::ready(Ok::<_, Infallible>(tcp));
        match self.open_session(timeout, |_| true, bare).await {
            Ok(tcp) => Ok(tcp),
            Err(ConnectError::Connect(error)) => Err(error),
            Err(ConnectError::Session(never)) => match never {},
        }
    }

    /// Connects and opens a session, at one address after another until one works. `timeout`
    /// applies to the DNS query and to each address; `open` keeps its own time. `is_final` tells
    /// the errors that would be the same at every address.
    pub async fn open_session<T, E: Display, Session>(
        &self,
        timeout: Duration,
        is_final: impl Fn(&E) -> bool,
        mut open: impl FnMut(TcpStream) -> Session,
    ) -> Result<T, ConnectError<E>>
    where
        Session: Future<Output = Result<T, E>>,
    {
        let mut left = self
            .addresses(timeout)
            .await
            .map_err(ConnectError::Connect)?;
        let mut last = None;
        while !left.is_empty() {
            let (tcp, address) = match connect(&left, timeout).await {
                Ok(connected) => connected,
                Err(error) => return Err(last.unwrap_or(ConnectError::Connect(error))),
            };
            left.retain(|one| *one != address);
            match open(tcp).await {
                Ok(session) => {
                    *self
                        .last_used
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Some(address);
                    return Ok(session);
                }
                Err(error) if is_final(&error) => return Err(ConnectError::Session(error)),
                Err(error) => last = Some(ConnectError::Session(error)),
            }
        }
        Err(last
            .unwrap_or_else(|| ConnectError::Connect(io::Error::other("the name has no address"))))
    }

    /// Returns all addresses: the last used one first, then IPv6 and IPv4 in turn (RFC 8305
    /// section 4).
    async fn addresses(&self, timeout: Duration) -> io::Result<Vec<SocketAddr>> {
        let found =
            tokio::time::timeout(timeout, lookup_host((self.host.as_str(), self.port))).await;
        let found = found.map_err(|_| io::Error::other("the DNS does not answer"))??;
        let last_used = *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(interleave(found.collect(), last_used))
    }
}

fn interleave(found: Vec<SocketAddr>, last_used: Option<SocketAddr>) -> Vec<SocketAddr> {
    let is_v6_first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        (found.into_iter()).partition(|address| address.is_ipv6() == is_v6_first);
    let mut ordered = Vec::with_capacity(first.len() + second.len());
    first.reverse();
    second.reverse();
    while !first.is_empty() || !second.is_empty() {
        ordered.extend(first.pop());
        ordered.extend(second.pop());
    }
    ordered.sort_by_key(|address| Some(*address) != last_used);
    ordered.dedup();
    ordered
}

/// Connects to one of these addresses. Each has a head start before the next is tried in parallel.
async fn connect(
    addresses: &[SocketAddr],
    timeout: Duration,
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut waiting = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut errors = Vec::new();
    loop {
        if let Some(&address) = waiting.next() {
            trying.push(async move { (address, connect_one(address, timeout).await) });
        }
        let (address, connected) = tokio::select! {
            tried = trying.next() => match tried {
                Some(tried) => tried,
                None => return Err(io::Error::other(errors.join("; "))),
            },
            () = sleep(HEAD_START), if !waiting.as_slice().is_empty() => continue,
        };
        match connected {
            Ok(tcp) => return Ok((tcp, address)),
            Err(error) if addresses.len() == 1 => return Err(error),
            Err(error) => errors.push(format!("{address}: {error}")),
        }
    }
}

async fn connect_one(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", timeout.as_secs_f32()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn addresses(of: &[&str]) -> Vec<SocketAddr> {
        of.iter()
            .map(|text| text.parse().expect("an address"))
            .collect()
    }

    #[test]
    fn address_families_alternate_after_the_last_used_address() {
        let found = addresses(&[
            "[::1]:1",
            "[::2]:1",
            "[::3]:1",
            "127.0.0.1:1",
            "127.0.0.2:1",
        ]);
        let ordered = addresses(&[
            "[::1]:1",
            "127.0.0.1:1",
            "[::2]:1",
            "127.0.0.2:1",
            "[::3]:1",
        ]);
        assert_eq!(interleave(found.clone(), None), ordered);
        let last_used = addresses(&["127.0.0.2:1"])[0];
        assert_eq!(
            interleave(found, Some(last_used))[..2],
            [last_used, ordered[0]]
        );
    }

    /// An address that never answers: its queue of connections is full.
    async fn black_hole() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().expect("an address"))
            .expect("bound");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("bound");
        let mut held = Vec::new();
        let short = Duration::from_millis(100);
        while let Ok(Ok(stream)) = tokio::time::timeout(short, TcpStream::connect(address)).await {
            held.push(stream);
        }
        (listener, held)
    }

    #[tokio::test]
    async fn a_silent_address_delays_the_next_one_only_shortly() {
        let (hole, _held) = black_hole().await;
        let sound = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let both = [
            hole.local_addr().expect("bound"),
            sound.local_addr().expect("bound"),
        ];
        let begun = std::time::Instant::now();
        let (_, address) = connect(&both, Duration::from_secs(60))
            .await
            .expect("connected");
        assert_eq!(address, both[1]);
        assert!(begun.elapsed() >= HEAD_START, "the first has a head start");
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn every_failed_address_is_named() {
        let sound = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let gone = sound.local_addr().expect("bound");
        drop(sound);
        let both = [gone, SocketAddr::from(([127, 0, 0, 2], gone.port()))];
        let error = connect(&both, Duration::from_secs(60))
            .await
            .expect_err("nobody");
        for address in both {
            assert!(error.to_string().contains(&address.to_string()), "{error}");
        }
    }
}
