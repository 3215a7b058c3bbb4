//! What is on its way to a connection, in bytes: long answers wait for those before them to be sent.

use super::limits::ANSWERS_LEN_MAX;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// See the module.
#[derive(Default)]
pub(super) struct Outgoing {
    len: AtomicUsize,
    less: Notify,
}

/// Room for an answer. Given back when it goes, unless the answer was given.
pub struct Room {
    outgoing: Arc<Outgoing>,
    len: usize,
}

impl Outgoing {
    /// Waits until an answer of so many bytes may be made.
    pub async fn room(self: &Arc<Self>, len: usize) -> Room {
        loop {
            let mut less = pin!(self.less.notified());
            less.as_mut().enable();
            let before = self.len.load(Ordering::Acquire);
            if before == 0 || before.saturating_add(len) <= ANSWERS_LEN_MAX {
                self.len.fetch_add(len, Ordering::AcqRel);
                return Room { outgoing: self.clone(), len };
            }
            less.await;
        }
    }

    fn sub(&self, len: usize) {
        let sub = |before: usize| Some(before.saturating_sub(len));
        let _ = self.len.fetch_update(Ordering::AcqRel, Ordering::Acquire, sub);
        self.less.notify_waiters();
    }
}

impl Room {
    /// The answer was made and has so many bytes, or some more: they count until they are sent.
    pub fn used(mut self, len: usize) {
        self.len = self.len.saturating_sub(len);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.outgoing.sub(self.len);
    }
}

/// A stream that counts what is sent.
pub(super) struct Counted<S> {
    pub stream: S,
    pub outgoing: Arc<Outgoing>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(len)) = written {
            self.outgoing.sub(len);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn who_does_not_read_waits() {
        let outgoing = Arc::new(Outgoing::default());
        let now = |len| outgoing.room(len).now_or_never();
        // One that is too long by itself is not waited for in vain.
        now(2 * ANSWERS_LEN_MAX).unwrap().used(ANSWERS_LEN_MAX - 1);
        let first = now(1).unwrap();
        assert!(now(1).is_none());
        // An error gives its room back, and what is sent makes room.
        drop(first);
        now(1).unwrap().used(1);
        assert!(now(1).is_none());
        outgoing.sub(10);
        let mut waiting = Box::pin(outgoing.room(20));
        assert!((&mut waiting).now_or_never().is_none());
        outgoing.sub(10);
        waiting.now_or_never().unwrap().used(20);
        outgoing.sub(usize::MAX);
        assert!(now(ANSWERS_LEN_MAX).is_some());
    }
}
