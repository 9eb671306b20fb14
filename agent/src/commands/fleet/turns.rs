//! Many pieces of work, some at a time, until one goes wrong: no further one is begun then, and what has been begun comes to its end.

use tokio::task::JoinSet;

/// Does the work, at most `at_once` pieces at a time and in order; `goes_on` says of each result whether others are begun after it. Returns what
/// was done, in the order in which it ended, and what was not begun.
pub async fn in_turns<T, R, F>(
    work: Vec<T>,
    at_once: usize,
    begin: impl Fn(T) -> F,
    goes_on: impl Fn(&R) -> bool,
) -> (Vec<R>, Vec<T>)
where
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let mut left = work.into_iter();
    let (mut running, mut done, mut stopped) = (JoinSet::new(), Vec::new(), false);
    loop {
        while !stopped && running.len() < at_once.max(1) {
            let Some(next) = left.next() else { break };
            running.spawn(begin(next));
        }
        match running.join_next().await {
            Some(Ok(result)) => {
                stopped |= !goes_on(&result);
                done.push(result);
            }
            // A piece that panicked has no result; nothing more is begun after that.
            Some(Err(_)) => stopped = true,
            None => return (done, left.collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn played(
        count: usize,
        at_once: usize,
        fails: Option<usize>,
        keep_going: bool,
    ) -> (Vec<usize>, Vec<usize>, usize) {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let begin = |piece: usize| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                piece
            }
        };
        let goes_on = |piece: &usize| keep_going || Some(*piece) != fails;
        let (mut done, left) = in_turns((0..count).collect(), at_once, begin, goes_on).await;
        done.sort_unstable();
        (done, left, most.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn nothing_is_begun_after_a_failure_and_never_too_much_at_once() {
        assert_eq!(played(5, 1, None, false).await, (vec![0, 1, 2, 3, 4], vec![], 1));
        assert_eq!(played(5, 2, None, false).await, (vec![0, 1, 2, 3, 4], vec![], 2));
        assert_eq!(played(5, 1, Some(1), false).await, (vec![0, 1], vec![2, 3, 4], 1));
        assert_eq!(played(5, 1, Some(1), true).await, (vec![0, 1, 2, 3, 4], vec![], 1));
        let (done, left, _) = played(6, 3, Some(0), false).await;
        assert!(done.len() >= 3 && done.len() + left.len() == 6, "what was begun comes to its end: {done:?}");
        assert_eq!(played(0, 3, None, false).await, (vec![], vec![], 0));
    }
}
