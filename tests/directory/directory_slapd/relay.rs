//! A way to a server that breaks once, at the first lookup.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) struct Relay {
    address: SocketAddr,
    lookups: Arc<AtomicUsize>,
}

impl Relay {
    /// Passes on to `server` what comes in, until the test process ends.
    pub(crate) fn start(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let relay = Relay {
            address: listener.local_addr().expect("bound"),
            lookups: Arc::default(),
        };
        let lookups = Arc::clone(&relay.lookups);
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let server = TcpStream::connect(server).expect("the server");
                let (from, to) = (client.try_clone(), server.try_clone());
                let (from, to) = (from.expect("a socket"), to.expect("a socket"));
                let lookups = Arc::clone(&lookups);
                std::thread::spawn(move || pass(from, to, &lookups));
                std::thread::spawn(move || io::copy(&mut &server, &mut &client));
            }
        });
        relay
    }

    pub(crate) fn url(&self) -> String {
        format!("ldap://{}", self.address)
    }

    /// How many lookups came along, the one that broke it included.
    pub(crate) fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, lookups: &AtomicUsize) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let passed = &buffer[..read];
        let lookup = passed.windows(4).any(|bytes| bytes == b"mail");
        let first = lookup && lookups.fetch_add(1, Ordering::SeqCst) == 0;
        if first || to.write_all(passed).is_err() {
            break;
        }
    }
    // Either side may have gone already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
