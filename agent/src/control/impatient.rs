//! A connection whose other end must go on reading: an answer that never ends would else wait for ever for somebody who has stopped. Over TCP the kernel
//! sees to that (`TCP_USER_TIMEOUT`); a unix socket has nothing of the kind.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long nothing may be taken that is there to be read.
const WITHIN: Duration = Duration::from_millis(if cfg!(test) { 2_000 } else { 10_000 });

/// A connection that ends when nobody reads.
pub struct Impatient<S> {
    stream: S,
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    /// Over a connection.
    pub fn new(stream: S) -> Self {
        Self { stream, waits: None }
    }

    /// What came of a write, or that it has been tried for too long.
    fn in_time<T>(&mut self, tried: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.waits = None;
            return tried;
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(WITHIN)));
        ready!(waits.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let tried = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.in_time(tried, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn whoever_reads_now_and_then_is_waited_for_and_whoever_has_stopped_is_not() {
        let (mut reader, writer) = duplex(4);
        let mut writer = Impatient::new(writer);
        let reads = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(WITHIN / 8).await;
                reader.read_exact(&mut [0; 4]).await.unwrap();
            }
            reader
        });
        writer.write_all(&[1; 20]).await.unwrap();
        let _stopped = reads.await.unwrap();
        let error = writer.write_all(&[1; 20]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
