//! A connection whose octets are read line by line, so that nobody in front of the encryption is heard behind it.
//!
//! lettre reads ahead, and what it has read it takes for answers, also after STARTTLS. A man in the middle could so put
//! the answers to everything that comes behind the answer to STARTTLS, in the clear, and a report would count as
//! delivered that nobody has (CVE-2011-0411 and its kin). Here no read goes beyond the end of a line: what follows the
//! answer to STARTTLS is read by the handshake, which it breaks.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Octets asked of the system at once. Replies are short.
const READ: usize = 4096;

/// A TCP connection that is read line by line.
#[derive(Debug)]
pub(super) struct LineWise {
    tcp: TcpStream,
    /// What came and was not asked for yet.
    ahead: BytesMut,
}

impl LineWise {
    /// Around a connection on which nothing was read.
    pub(super) fn new(tcp: TcpStream) -> LineWise {
        LineWise {
            tcp,
            ahead: BytesMut::new(),
        }
    }
}

impl AsyncTokioStream for LineWise {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }
}

impl AsyncRead for LineWise {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let mut octets = [0; READ];
            let mut read = ReadBuf::new(&mut octets);
            ready!(Pin::new(&mut self.tcp).poll_read(context, &mut read))?;
            self.ahead.extend_from_slice(read.filled());
        }
        let line = memchr::memchr(b'\n', &self.ahead).map_or(self.ahead.len(), |end| end + 1);
        let given = line.min(out.remaining());
        out.put_slice(&self.ahead[..given]);
        self.ahead.advance(given);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LineWise {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn no_read_goes_beyond_a_line() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let connected = TcpStream::connect(address);
        let (client, server) = tokio::join!(connected, listener.accept());
        let (mut server, _) = server.expect("accepted");
        server.write_all(b"one\r\n\ntwo").await.expect("written");
        drop(server);
        let mut client = LineWise::new(client.expect("connected"));
        let (mut octets, mut reads) = ([0; 64], Vec::new());
        loop {
            let read = client.read(&mut octets).await.expect("read");
            if read == 0 {
                break;
            }
            reads.push(octets[..read].to_vec());
        }
        assert_eq!(reads, [&b"one\r\n"[..], b"\n", b"two"]);
    }
}
