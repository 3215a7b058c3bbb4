//! One RPC connection over any stream of bytes.

use super::gate::{Gated, Guest};
use super::limits::{HANDSHAKE, MESSAGE_NESTING_MAX, MESSAGE_WORDS_MAX, WINDOW_LEN};
use super::meter::{Meter, Metered};
use capnp::capability::{Client as AnyClient, FromClientHook};
use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Disconnector, RpcSystem, twoparty};
use futures::io::{BufReader, BufWriter};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

/// Bytes gathered before they go to the stream, and read ahead of it.
const BUFFER_LEN: usize = 64 << 10;

fn options() -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(MESSAGE_WORDS_MAX));
    options.nesting_limit(MESSAGE_NESTING_MAX);
    options
}

fn network<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    side: Side,
) -> (twoparty::VatNetwork<impl futures::AsyncRead + Unpin>, Rc<Cell<usize>>) {
    let (read, write) = tokio::io::split(Breaking(stream));
    let count = Rc::new(Cell::new(0));
    let read = Tally { read: BufReader::with_capacity(BUFFER_LEN, read.compat()), count: count.clone() };
    let write = BufWriter::with_capacity(BUFFER_LEN, write.compat_write());
    let mut network = twoparty::VatNetwork::new(read, write, side, options());
    network.set_window_size(WINDOW_LEN);
    (network, count)
}

/// Counts the bytes that are taken from it.
struct Tally<R> {
    read: R,
    count: Rc<Cell<usize>>,
}

impl<R: futures::AsyncRead + Unpin> futures::AsyncRead for Tally<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.read).poll_read(cx, buf))?;
        self.count.set(self.count.get() + len);
        Poll::Ready(Ok(len))
    }
}

/// A stream that breaks in one way only: however it ends, in the middle of a message too, whoever waits for an answer,
/// on whichever machine, hears that the connection is gone.
struct Breaking<S>(S);

fn broken(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl<S: AsyncRead + Unpin> AsyncRead for Breaking<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf)).map_err(broken)?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        Poll::Ready(if is_end { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Breaking<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes).map_err(broken)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx).map_err(broken)
    }
}

/// A connection: to be driven by whoever has it, and to be ended.
pub struct Connection {
    system: RpcSystem<Side>,
}

impl Connection {
    /// The side that was called; `bootstrap` is what it offers.
    pub fn serving<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, bootstrap: AnyClient) -> Self {
        Self::metered(stream, bootstrap, Meter::of_one)
    }

    pub(super) fn metered<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        stream: S,
        bootstrap: AnyClient,
        meter: impl FnOnce(Rc<Cell<usize>>) -> Rc<Meter>,
    ) -> Self {
        let (network, read) = network(stream, Side::Server);
        let network = Metered { network, meter: meter(read) };
        Self { system: RpcSystem::new(Box::new(network), Some(bootstrap)) }
    }

    /// The side that was called by a program on this machine.
    pub fn serving_guest<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        stream: S,
        bootstrap: AnyClient,
        guest: Rc<Guest>,
    ) -> Self {
        let (network, read) = network(stream, Side::Server);
        let network = Metered { network, meter: Meter::new(read, guest.bytes()) };
        let network = Gated { network, guest };
        Self { system: RpcSystem::new(Box::new(network), Some(bootstrap)) }
    }

    /// The side that calls.
    pub fn calling<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S) -> Self {
        Self { system: RpcSystem::new(Box::new(network(stream, Side::Client).0), None) }
    }

    /// What the other side offers.
    pub fn bootstrap<T: FromClientHook>(&mut self) -> T {
        self.system.bootstrap(Side::Server)
    }

    /// Ends it from elsewhere.
    pub fn disconnector(&self) -> Disconnector<Side> {
        self.system.get_disconnector()
    }

    /// Runs it until it ends.
    ///
    /// # Errors
    /// The stream broke, or the other side does not speak as it should.
    pub async fn drive(self) -> Result<(), capnp::Error> {
        self.system.await
    }

    /// Runs it until it ends, or `end` comes: then nothing it gave can be used any more, and calls under way fail.
    ///
    /// # Errors
    /// As [`Self::drive`].
    pub async fn drive_until(mut self, end: impl Future<Output = ()>) -> Result<(), capnp::Error> {
        let disconnector = self.disconnector();
        tokio::select! {
            biased;
            result = &mut self.system => return result,
            () = end => {}
        }
        // A system that is only dropped keeps what it gave for ever. The other side may be deaf to the parting words.
        let _ = tokio::time::timeout(HANDSHAKE, futures::future::join(disconnector, self.system)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::problem::{Problem, Why};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;
    use twinkeep_schema::office_capnp::bootstrap;

    /// A call to somebody who sends these bytes and is gone.
    async fn call_answered_with(bytes: &[u8]) -> Problem {
        let (near, mut far) = tokio::io::duplex(4096);
        let mut connection = Connection::calling(near);
        let host: bootstrap::Client = connection.bootstrap();
        tokio::task::spawn_local(connection.drive());
        let answer = host.status_request().send().promise;
        far.read_exact(&mut [0; 8]).await.unwrap();
        far.write_all(bytes).await.unwrap();
        drop(far);
        Problem::from(answer.await.err().unwrap())
    }

    #[test]
    fn whoever_waits_hears_that_the_connection_is_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            for bytes in [&[][..], &[0, 0, 0], &[0, 0, 0, 0, 9, 0, 0, 0, 1, 2, 3]] {
                assert_eq!(call_answered_with(bytes).await.why, Why::Unreachable, "{bytes:?}");
            }
        });
    }
}
