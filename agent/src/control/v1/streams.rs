//! Answers that go on, as server-sent events. Their number is bounded, so that they never crowd out the verbs; and whoever does not read is let go: an
//! event waits for its reader for a while, and then the stream ends.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::poll_fn;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::control::answer::Answer;

/// So many at once.
pub const STREAMS_MAX: usize = 16;
/// So many events wait for their reader.
const WAITING_MAX: usize = 32;
/// And so long.
const READ_WITHIN: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });
/// A stream without events says so often that it is there.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Where events go.
pub struct Teller(mpsc::Sender<Event>);

/// Nobody reads any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Teller {
    /// Tells an event, with an id that is the same whenever it is told.
    ///
    /// # Errors
    /// Nobody has read for a while.
    pub async fn tell(&self, name: &str, id: Option<&str>, data: &impl Serialize) -> Result<(), Gone> {
        let event = Event::default().event(name).data(serde_json::to_string(data).unwrap_or_default());
        let event = match id {
            Some(id) => event.id(id),
            None => event,
        };
        self.0.send_timeout(event, READ_WITHIN).await.map_err(|_| Gone)
    }
}

/// Answers with whatever `work` tells, until it ends, the reader has gone, or may not read any more: `lost` says why, and that is the last event.
///
/// # Errors
/// 503: as many as may be are there already.
pub fn open<W>(
    room: &Arc<Semaphore>,
    lost: impl Future<Output = String> + Send + 'static,
    work: impl FnOnce(Teller) -> W,
) -> Result<Response, Answer>
where
    W: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
        let why =
            format!("{STREAMS_MAX} streams are open at this agent, and no more may be: end one, or ask another agent");
        return Err(Answer::error(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let (sender, mut receiver) = mpsc::channel(WAITING_MAX);
    let work = work(Teller(sender.clone()));
    tokio::spawn(async move {
        tokio::select! {
            _ = work => {}
            () = sender.closed() => {}
            why = lost => drop(Teller(sender.clone()).tell("denied", None, &json!({"error": why})).await),
        }
        drop(permit);
    });
    let events = poll_fn(move |context| receiver.poll_recv(context).map(|event| event.map(Ok::<_, Infallible>)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE_EVERY).text("alive")).into_response())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::pending;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn whoever_may_not_read_any_more_is_told_so_and_no_more() {
        let room = Arc::new(Semaphore::new(1));
        let never = |_| async move { pending().await };
        let lost = async { "that is nobody's token here".to_owned() };
        let text = open(&room, lost, never).unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "event: denied\ndata: {\"error\":\"that is nobody's token here\"}\n\n");
        assert!(tokio::time::timeout(Duration::from_secs(5), room.acquire()).await.is_ok(), "it is not given back");
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_work_and_gives_its_room_back() {
        let room = Arc::new(Semaphore::new(1));
        let work = |teller: Teller| async move { teller.tell("end", Some("7"), &serde_json::json!({"a": 1})).await };
        let first = open(&room, pending(), work).unwrap();
        assert_eq!(open(&room, pending(), work).unwrap_err().into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        let text = first.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "event: end\ndata: {\"a\":1}\nid: 7\n\n");
        assert!(tokio::time::timeout(Duration::from_secs(5), room.acquire()).await.is_ok(), "it is not given back");
    }

    #[tokio::test]
    async fn whoever_hangs_up_gives_the_room_back() {
        let room = Arc::new(Semaphore::new(1));
        let never = |teller: Teller| async move {
            std::future::pending::<()>().await;
            teller.tell("end", None, &1).await
        };
        drop(open(&room, pending(), never).unwrap());
        assert!(tokio::time::timeout(Duration::from_secs(5), room.acquire()).await.is_ok(), "it is not given back");
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_let_go() {
        let room = Arc::new(Semaphore::new(1));
        let talks = |teller: Teller| async move {
            loop {
                teller.tell("noise", None, &1).await?;
            }
        };
        let unread = open(&room, pending(), talks).unwrap();
        assert!(tokio::time::timeout(READ_WITHIN * 50, room.acquire()).await.is_ok(), "it is kept for ever");
        let text = unread.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            text.iter().filter(|byte| **byte == b'1').count(),
            WAITING_MAX,
            "what waited is told, and then it ends"
        );
    }
}
