//! One picture for everybody who looks. It is made once, however many pages are open, and not at all while nobody looks: whoever comes first has it
//! begun, and it ends with whoever goes last. A reader that is slow misses pictures and keeps nobody waiting.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt, unfold};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The newest picture, and who makes the next.
pub struct Shared {
    newest: watch::Sender<Bytes>,
    maker: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    /// Nobody looks yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { newest: watch::Sender::new(Bytes::new()), maker: Mutex::default() })
    }

    /// The newest picture at once, then each that is made. `pictures` gives the source of them where nobody makes any.
    pub fn look<S>(self: &Arc<Self>, pictures: impl FnOnce() -> S) -> BoxStream<'static, Bytes>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let told = unfold((self.reader(pictures), true), |(mut reader, comes_in)| async move {
            if !comes_in {
                reader.changed().await.ok()?;
            }
            let newest = reader.wait_for(|picture| !picture.is_empty()).await.ok()?.clone();
            Some((newest, (reader, false)))
        });
        told.boxed()
    }

    fn reader<S>(self: &Arc<Self>, pictures: impl FnOnce() -> S) -> watch::Receiver<Bytes>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let mut maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = self.newest.subscribe();
        if maker.as_ref().is_none_or(JoinHandle::is_finished) {
            // What was the newest when the last reader went is old.
            self.newest.send_replace(Bytes::new());
            *maker = Some(tokio::spawn(Arc::clone(self).make(pictures())));
        }
        reader
    }

    async fn make(self: Arc<Self>, pictures: impl Stream<Item = Bytes>) {
        let mut pictures = std::pin::pin!(pictures);
        loop {
            tokio::select! {
                picture = pictures.next() => match picture {
                    Some(picture) => _ = self.newest.send_replace(picture),
                    None => return,
                },
                () = self.newest.closed() => {
                    // Somebody may have come this moment, and counts on this maker.
                    let mut maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
                    if self.newest.receiver_count() == 0 {
                        *maker = None;
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Pictures that tell their number, each made when it is asked for; `made` counts them over all sources.
    fn numbered(made: &Arc<AtomicUsize>) -> impl Stream<Item = Bytes> + Send + use<> {
        unfold(Arc::clone(made), |made| async move {
            tokio::task::yield_now().await;
            let number = made.fetch_add(1, Ordering::SeqCst) + 1;
            Some((Bytes::from(number.to_string()), made))
        })
    }

    #[tokio::test]
    async fn a_hundred_readers_have_the_pictures_of_one_maker_and_without_any_none_is_made() {
        let (shared, made) = (Shared::new(), Arc::new(AtomicUsize::new(0)));
        let mut sources = 0;
        let mut readers: Vec<_> = (0..100)
            .map(|_| {
                shared.look(|| {
                    sources += 1;
                    numbered(&made)
                })
            })
            .collect();
        for reader in &mut readers {
            let mut before = 0;
            for _ in 0..3 {
                let picture = reader.next().await.expect("it never ends");
                let number: usize = std::str::from_utf8(&picture).expect("text").parse().expect("a number");
                assert!(number > before, "{number} after {before}");
                before = number;
            }
        }
        assert_eq!(sources, 1);

        drop(readers);
        while shared.maker.lock().expect("no panic").is_some() {
            tokio::task::yield_now().await;
        }
        let then = made.load(Ordering::SeqCst);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(made.load(Ordering::SeqCst), then, "somebody goes on without a reader");

        let first = shared.look(|| numbered(&made)).next().await.expect("it never ends");
        assert_eq!(first, (then + 1).to_string(), "whoever comes later is told nothing old");
    }
}
