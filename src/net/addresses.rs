//! A server by its name, and all the addresses that the name has.

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
use tokio::time::{sleep, timeout};

/// How long an address has to answer before the next one is tried beside it (RFC 8305 section 8).
const HEAD_START: Duration = Duration::from_millis(250);

/// A server by its name.
#[derive(Debug)]
pub struct Server {
    host: String,
    port: u16,
    /// The address that worked last.
    worked: Mutex<Option<SocketAddr>>,
}

/// Why a server was not reached at any of its addresses.
#[derive(Debug, thiserror::Error)]
pub enum ReachError<E: Display> {
    /// No address answered, or there is none.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// One answered, and what was begun with it failed.
    #[error("{0}")]
    Session(E),
}

impl Server {
    /// A server by its name or IP address, without brackets.
    pub fn new(host: &str, port: u16) -> Server {
        Server {
            host: host.to_owned(),
            port,
            worked: Mutex::default(),
        }
    }

    /// The server that an LDAP URL names; `None` of a socket on this machine.
    pub fn of_ldap(url: &str) -> Option<Server> {
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

    /// Connects to one of its addresses.
    pub async fn connect(&self, patience: Duration) -> io::Result<TcpStream> {
        let at_once = |tcp| std::future::ready(Ok::<_, Infallible>(tcp));
        match self.reach(patience, |_| true, at_once).await {
            Ok(tcp) => Ok(tcp),
            Err(ReachError::Connect(error)) => Err(error),
            Err(ReachError::Session(never)) => match never {},
        }
    }

    /// Connects, and begins a session, at one address after another until one works. `patience` is
    /// for each question to the DNS and for each address; the session keeps its own time.
    /// `is_final` says which failures are the same at every address.
    pub async fn reach<T, E: Display, Session>(
        &self,
        patience: Duration,
        is_final: impl Fn(&E) -> bool,
        mut begin: impl FnMut(TcpStream) -> Session,
    ) -> Result<T, ReachError<E>>
    where
        Session: Future<Output = Result<T, E>>,
    {
        let mut left = self
            .addresses(patience)
            .await
            .map_err(ReachError::Connect)?;
        let mut last = None;
        while !left.is_empty() {
            let (tcp, address) = match connect(&left, patience).await {
                Ok(connected) => connected,
                Err(error) => return Err(last.unwrap_or(ReachError::Connect(error))),
            };
            left.retain(|one| *one != address);
            match begin(tcp).await {
                Ok(session) => {
                    *self.worked.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
                    return Ok(session);
                }
                Err(error) if is_final(&error) => return Err(ReachError::Session(error)),
                Err(error) => last = Some(ReachError::Session(error)),
            }
        }
        Err(last.unwrap_or_else(|| ReachError::Connect(io::Error::other("it has no address"))))
    }

    /// All addresses: the one that worked last, then those of IPv6 and IPv4 in turn (RFC 8305
    /// section 4).
    async fn addresses(&self, patience: Duration) -> io::Result<Vec<SocketAddr>> {
        let found = timeout(patience, lookup_host((self.host.as_str(), self.port))).await;
        let found = found.map_err(|_| io::Error::other("the DNS does not answer"))??;
        let worked = *self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(in_turn(found.collect(), worked))
    }
}

fn in_turn(found: Vec<SocketAddr>, worked: Option<SocketAddr>) -> Vec<SocketAddr> {
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
    ordered.sort_by_key(|address| Some(*address) != worked);
    ordered.dedup();
    ordered
}

/// Connects to one of these addresses: each has a head start, and is waited for beside those behind
/// it.
async fn connect(
    addresses: &[SocketAddr],
    patience: Duration,
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut waiting = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut faults = Vec::new();
    loop {
        if let Some(&address) = waiting.next() {
            trying.push(async move { (address, connect_one(address, patience).await) });
        }
        let (address, connected) = tokio::select! {
            tried = trying.next() => match tried {
                Some(tried) => tried,
                None => return Err(io::Error::other(faults.join("; "))),
            },
            () = sleep(HEAD_START), if !waiting.as_slice().is_empty() => continue,
        };
        match connected {
            Ok(tcp) => return Ok((tcp, address)),
            Err(error) if addresses.len() == 1 => return Err(error),
            Err(error) => faults.push(format!("{address}: {error}")),
        }
    }
}

async fn connect_one(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    match timeout(patience, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", patience.as_secs_f32()),
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
    fn families_take_turns_behind_the_address_that_worked_last() {
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
        assert_eq!(in_turn(found.clone(), None), ordered);
        let worked = addresses(&["127.0.0.2:1"])[0];
        assert_eq!(in_turn(found, Some(worked))[..2], [worked, ordered[0]]);
    }

    /// An address that swallows what is sent to it: its queue of connections is full.
    async fn black_hole() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.1:0".parse().expect("an address"))
            .expect("bound");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("bound");
        let mut held = Vec::new();
        let short = Duration::from_millis(100);
        while let Ok(Ok(stream)) = timeout(short, TcpStream::connect(address)).await {
            held.push(stream);
        }
        (listener, held)
    }

    #[tokio::test]
    async fn an_address_that_swallows_everything_delays_the_next_one_shortly() {
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
    async fn every_address_that_fails_is_named() {
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
