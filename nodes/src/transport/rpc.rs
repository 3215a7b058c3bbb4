//! One RPC connection over any stream of bytes.

use super::limits::{MESSAGE_NESTING_MAX, MESSAGE_WORDS_MAX, WINDOW_LEN};
use capnp::capability::{Client as AnyClient, FromClientHook};
use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Disconnector, RpcSystem, twoparty};
use futures::io::{BufReader, BufWriter};
use tokio::io::{AsyncRead, AsyncWrite};
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
) -> twoparty::VatNetwork<impl futures::AsyncRead + Unpin> {
    let (read, write) = tokio::io::split(stream);
    let read = BufReader::with_capacity(BUFFER_LEN, read.compat());
    let write = BufWriter::with_capacity(BUFFER_LEN, write.compat_write());
    let mut network = twoparty::VatNetwork::new(read, write, side, options());
    network.set_window_size(WINDOW_LEN);
    network
}

/// A connection: to be driven by whoever has it, and to be ended.
pub struct Connection {
    system: RpcSystem<Side>,
}

impl Connection {
    /// The side that was called; `bootstrap` is what it offers.
    pub fn serving<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, bootstrap: AnyClient) -> Self {
        Self { system: RpcSystem::new(Box::new(network(stream, Side::Server)), Some(bootstrap)) }
    }

    /// The side that calls.
    pub fn calling<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S) -> Self {
        Self { system: RpcSystem::new(Box::new(network(stream, Side::Client)), None) }
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
}
