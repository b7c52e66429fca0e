//! A TCP proxy between two peers that breaks what passes through it, as it is told to while it
//! runs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{PATIENCE, free_port};

/// A fault of connections, open and new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: everything passes.
    Pass,
    /// Each piece waits so long before it passes; what waits passes at once when the fault ends.
    Delay(Duration),
    /// Answers arrive so much later, however many are on their way: a server that is slow and not
    /// busy.
    Latency(Duration),
    /// Bytes are dropped silently, and so is everything later on a connection that lost anything:
    /// for its peers it is half open for ever.
    Blackhole,
    /// The server's side is closed: its answers are lost, and what the client sends still arrives.
    HalfClose,
    /// Connections are reset (RST), new ones as soon as they are there.
    Reset,
    /// The client gets bytes without meaning instead of the server's.
    Garbage,
    /// One byte passes at a time, with this pause after it.
    Drip(Duration),
    /// Connections are reset, and nothing listens any more.
    Refuse,
}

/// A running proxy on a port of 127.0.0.1; ends when it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    /// Whether the port is listened on.
    listens: watch::Receiver<bool>,
    accepted: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
}

impl FaultProxy {
    /// Passes connections on to `server`.
    pub fn start(server: SocketAddr) -> FaultProxy {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime of one thread needs little");
        let listener = (0..10)
            .find_map(|_| runtime.block_on(listen(local(free_port()))).ok())
            .expect("one of ten free ports is free");
        let address = listener.local_addr().expect("it is bound");
        let (fault, faults) = watch::channel(Fault::Pass);
        let (tell, listens) = watch::channel(true);
        let accepted = Arc::new(AtomicUsize::new(0));
        runtime.spawn(accept(listener, server, faults, tell, accepted.clone()));
        FaultProxy {
            address,
            fault,
            listens,
            accepted,
            runtime: Some(runtime),
        }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections came so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// From now on this happens. When it returns, the port is listened on, or is not, as the fault
    /// asks.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
        let deadline = Instant::now() + PATIENCE;
        while *self.listens.borrow() == (fault == Fault::Refuse) {
            assert!(Instant::now() < deadline, "the proxy does not {fault:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    mut faults: watch::Receiver<Fault>,
    listens: watch::Sender<bool>,
    accepted: Arc<AtomicUsize>,
) {
    let address = listener.local_addr().expect("it is bound");
    let mut listener = Some(listener);
    loop {
        if *faults.borrow_and_update() == Fault::Refuse {
            listener = None;
            listens.send_replace(false);
        } else if listener.is_none() {
            // It lies below the ports that the system gives to clients, so nobody has taken it.
            listener = Some(listen(address).await.expect("the port is still ours"));
            listens.send_replace(true);
        }
        let came = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = faults.changed() => if changed.is_err() { return },
            Ok((client, _)) = came => {
                accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection(client, server, faults.clone()));
            }
        }
    }
}

/// One connection, to its end.
async fn connection(mut client: TcpStream, server: SocketAddr, faults: watch::Receiver<Fault>) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        return reset(client);
    };
    let nodelay = client.set_nodelay(true).and(server.set_nodelay(true));
    let mut watched = faults.clone();
    let cut = async {
        let cuts = |fault: &Fault| matches!(fault, Fault::Reset | Fault::Refuse);
        // Without a sender the proxy ends, and this with it.
        let _ = watched.wait_for(cuts).await;
    };
    let both = async {
        let ((up_from, down_to), (down_from, up_to)) = (client.split(), server.split());
        let up = pass(up_from, up_to, faults.clone(), false);
        let down = async {
            match pass(down_from, down_to, faults.clone(), true).await {
                // The end of a half-open connection does not arrive either.
                Err(DataLost) => std::future::pending().await,
                ended => ended,
            }
        };
        // When the client has given it up, nobody looks at it any more.
        tokio::try_join!(up, down)
    };
    let is_cut = tokio::select! {
        () = cut => true,
        ended = both => ended.is_err(),
    };
    if is_cut || nodelay.is_err() {
        reset(client);
        reset(server);
    }
}

/// Closes a connection by RST: nothing that still waits in it is sent.
fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// A connection that lost something.
struct DataLost;

/// One direction, to its end. `answers`: from the server to the client.
async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut faults: watch::Receiver<Fault>,
    answers: bool,
) -> Result<(), DataLost> {
    let mut buffer = vec![0; 16 * 1024];
    let (mut is_lost, mut is_closed) = (false, false);
    // Answers on their way, and when they came from the server.
    let mut late: VecDeque<(tokio::time::Instant, Vec<u8>)> = VecDeque::new();
    loop {
        // What is late arrives in its order, and at once when the fault ends.
        let latency = match *faults.borrow_and_update() {
            Fault::Latency(latency) if answers => Some(latency),
            _ => None,
        };
        while let Some((came, bytes)) = late.front()
            && latency.is_none_or(|latency| came.elapsed() >= latency)
        {
            if to.write_all(bytes).await.is_err() {
                return Ok(());
            }
            late.pop_front();
        }
        let due = late
            .front()
            .map(|(came, _)| *came + latency.unwrap_or_default());
        let arrival = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        if answers && !is_closed && *faults.borrow_and_update() == Fault::HalfClose {
            is_closed = true;
            let _ = to.shutdown().await;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = faults.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
            () = arrival => continue,
        };
        let Ok(count @ 1..) = read else { break };
        is_lost |= *faults.borrow() == Fault::Blackhole;
        let bytes = &buffer[..count];
        if latency.is_some() && !is_lost {
            late.push_back((tokio::time::Instant::now(), bytes.to_vec()));
            continue;
        }
        if !is_lost && !is_closed && hand_on(bytes, &mut to, &mut faults, answers).await.is_err() {
            break;
        }
    }
    if is_lost {
        return Err(DataLost);
    }
    let _ = to.shutdown().await;
    Ok(())
}

/// Hands some bytes on as the fault of the moment has it.
async fn hand_on(
    bytes: &[u8],
    to: &mut WriteHalf<'_>,
    faults: &mut watch::Receiver<Fault>,
    answers: bool,
) -> std::io::Result<()> {
    let fault = *faults.borrow_and_update();
    match fault {
        Fault::Garbage if answers => {
            let garbage: Vec<u8> = (bytes.iter().zip(0u8..).cycle().take(64))
                .map(|(byte, n)| byte.rotate_left(3) ^ n.wrapping_mul(151) | 0x80)
                .collect();
            to.write_all(&garbage).await
        }
        Fault::Delay(wait) => {
            let _ = tokio::time::timeout(wait, faults.changed()).await;
            to.write_all(bytes).await
        }
        Fault::Drip(pause) => {
            for (n, byte) in bytes.iter().enumerate() {
                to.write_all(std::slice::from_ref(byte)).await?;
                if let Ok(Ok(())) = tokio::time::timeout(pause, faults.changed()).await {
                    return to.write_all(&bytes[n + 1..]).await;
                }
            }
            Ok(())
        }
        _ => to.write_all(bytes).await,
    }
}
