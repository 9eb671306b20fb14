//! One attempt to renew or to get a lease through one endpoint, under a deadline. It owns its stream, and closes it unless it wins: the
//! answer to an old question must never be taken for the answer to a new one.

use std::future::Future;
use std::time::Duration;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper as LeaseSender};
use tokio::time::timeout;

use crate::clock::BootInstant;
use crate::endpoints::{Endpoints, Failure, classify};
use crate::error::Error;

/// A keep-alive stream, and the endpoint at its other end.
pub(crate) struct Stream {
    pub(crate) endpoint: usize,
    pub(crate) lease: i64,
    sender: LeaseSender,
    answers: LeaseKeepAliveStream,
}

/// How an attempt ended.
pub(crate) struct Landed {
    pub(crate) endpoint: usize,
    /// The moment before anything was sent, from which the answer counts.
    pub(crate) sent_at: BootInstant,
    pub(crate) answer: Result<Answer, Failure>,
}

/// What etcd has confirmed.
pub(crate) enum Answer {
    /// The lease lives for so long.
    Renewed { ttl: Duration, stream: Box<Stream> },
    /// There is a new lease.
    Granted { id: i64, ttl: Duration },
}

/// Renews `lease` through `endpoint`, over `stream` if there is one.
pub(crate) fn renew(
    endpoints: Endpoints,
    endpoint: usize,
    lease: i64,
    stream: Option<Box<Stream>>,
) -> impl Future<Output = Landed> + Send {
    let sent_at = BootInstant::now();
    async move {
        let answer = timeout(endpoints.request_timeout(), exchange(&endpoints, endpoint, lease, stream)).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::Unclear("no answer".to_owned())));
        Landed { endpoint, sent_at, answer }
    }
}

/// Sends one renewal and waits for its answer.
async fn exchange(
    endpoints: &Endpoints,
    endpoint: usize,
    lease: i64,
    stream: Option<Box<Stream>>,
) -> Result<Answer, Failure> {
    let mut stream = match stream {
        Some(stream) => stream,
        None => {
            let mut client = endpoints.client(endpoint).await.map_err(|error| match error {
                Error::Unreachable(why) => Failure::NotSent(why),
                other => Failure::Final(other),
            })?;
            let (sender, answers) = client.lease_keep_alive(lease).await.map_err(classify)?;
            Box::new(Stream { endpoint, lease, sender, answers })
        }
    };
    stream.sender.keep_alive().await.map_err(classify)?;
    let answer = stream.answers.message().await.map_err(classify)?;
    let answer = answer.ok_or_else(|| Failure::Unclear("the stream ended".to_owned()))?;
    match u64::try_from(answer.ttl()) {
        Ok(seconds) if seconds > 0 => Ok(Answer::Renewed { ttl: Duration::from_secs(seconds), stream }),
        _ => Err(Failure::Final(Error::LeaseGone(format!("lease {lease} has no time left")))),
    }
}

/// Gets a new lease through `endpoint`.
pub(crate) fn grant(endpoints: Endpoints, endpoint: usize, ttl: Duration) -> impl Future<Output = Landed> + Send {
    let sent_at = BootInstant::now();
    async move {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let request = |mut client: etcd_client::Client| async move { client.lease_grant(seconds, None).await };
        let answer = endpoints.attempt(endpoint, &request).await.map(|granted| Answer::Granted {
            id: granted.id(),
            ttl: Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or_default()),
        });
        Landed { endpoint, sent_at, answer }
    }
}
