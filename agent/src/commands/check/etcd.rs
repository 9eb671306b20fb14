//! `pgvigil check etcd`: each member of etcd is asked by itself, all at once; an answer is a linearizable read, so that one that answers has a
//! quorum behind it.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::super::words;
use super::finding::{Finding, Level};
use super::judged::{Limits, seconds};
use crate::operate::world::Reach;

/// How one member answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    url: String,
    /// How long it took, or why it did not.
    within: Result<Duration, String>,
}

/// Asks them.
pub async fn members(reach: &Reach, limits: &Limits) -> Finding {
    let mut asked = JoinSet::new();
    for url in &reach.config.etcd.endpoints {
        let mut config = reach.config.clone();
        config.etcd.endpoints = vec![url.clone()];
        let url = url.clone();
        asked.spawn(async move {
            let within = match Reach::of(config) {
                Ok(reach) => {
                    let began = Instant::now();
                    reach.store.answers().await.map(|()| began.elapsed()).map_err(|error| error.to_string())
                }
                Err(error) => Err(format!("{error:#}")),
            };
            Answered { url, within }
        });
    }
    judge(&asked.join_all().await, limits)
}

fn judge(answers: &[Answered], limits: &Limits) -> Finding {
    let (warning, critical) = limits.etcd_ms;
    let silent: Vec<&Answered> = answers.iter().filter(|answered| answered.within.is_err()).collect();
    let times = answers.iter().filter_map(|answered| answered.within.as_ref().ok());
    // The quickest is the one that is used; a slow one beside it is no trouble.
    let quickest = times.min().map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let there = answers.len() - silent.len();
    let mut wrong = Vec::new();
    if let Some(first) = silent.first() {
        let level = if there == 0 { Level::Critical } else { Level::Warning };
        let urls = words::list(silent.iter().map(|answered| &answered.url));
        let why = first.within.as_ref().err().map_or("", String::as_str);
        wrong.push((level, format!("{there} of {} members answer, not {urls}: {why}", answers.len())));
    }
    if let Some(time) = quickest.filter(|time| *time >= warning) {
        let level = if time >= critical { Level::Critical } else { Level::Warning };
        wrong.push((level, format!("it takes {time} ms to answer")));
    }
    let well = format!("{there} of {} members answer, in {} ms", answers.len(), quickest.unwrap_or_default());
    let finding = Finding::of_all("etcd", wrong, well).with(format!("etcd_members={there};;;0;{}", answers.len()));
    match quickest {
        Some(time) => {
            finding.with(format!("etcd_time={:.3}s;{:.3};{:.3};0", seconds(time), seconds(warning), seconds(critical)))
        }
        None => finding,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::What;

    #[test]
    fn each_member_counts_and_the_quickest_answer_tells_the_time() {
        let limits = Limits::of(What::Etcd, None, None).unwrap();
        let answered = |ms: Option<u64>| Answered {
            url: format!("http://e{}:2379", ms.unwrap_or(0)),
            within: ms.map(Duration::from_millis).ok_or_else(|| "late".to_owned()),
        };
        for (times, level, text) in [
            (&[Some(2), Some(900), Some(3)][..], Level::Ok, "3 of 3 members answer, in 2 ms"),
            (&[Some(2), None, Some(3)], Level::Warning, "2 of 3 members answer, not http://e0:2379: late"),
            (&[None, None], Level::Critical, "0 of 2 members answer, not http://e0:2379, http://e0:2379: late"),
            (&[Some(400)], Level::Warning, "it takes 400 ms to answer"),
            (&[Some(2000)], Level::Critical, "it takes 2000 ms to answer"),
        ] {
            let answers: Vec<Answered> = times.iter().map(|ms| answered(*ms)).collect();
            let finding = judge(&answers, &limits);
            assert_eq!((finding.level, finding.text.as_str()), (level, text), "{times:?}");
        }
        let perf = judge(&[answered(Some(2))], &limits).perf;
        assert_eq!(perf, ["etcd_members=1;;;0;1", "etcd_time=0.002s;0.250;1.000;0"]);
    }
}
