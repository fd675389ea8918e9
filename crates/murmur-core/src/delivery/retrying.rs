//! The one retry loop of all modes.

use std::collections::HashSet;
use std::future::Future;

use murmur_state::{Add, Deadline, Fault, ItemId, Key, Outcome, PipelineName, Place, StoreError};

use super::context::Context;
use crate::answers::all_answered;

/// What entries share whose order matters.
#[derive(PartialEq, Eq, Hash)]
pub(crate) enum OrderedBy {
    Key(Key),
    Item(ItemId),
}

pub(crate) fn of_keys<V>(adds: &[Add<V>]) -> impl Iterator<Item = OrderedBy> {
    adds.iter().map(|add| OrderedBy::Key(add.key.clone()))
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Applied | Outcome::Duplicate | Outcome::Superseded
    )
}

/// The outcomes, if there is one for each of the entries. Otherwise nothing tells which of them are
/// done, so none is: they are reported, and come again.
fn one_for_each(place: &Place, entries: usize, outcomes: Vec<Outcome>) -> Vec<Outcome> {
    match all_answered(|| place.clone(), entries, outcomes) {
        Ok(outcomes) => outcomes,
        Err(error) => vec![Outcome::Failed(error); entries],
    }
}

/// Sends entries until each is settled, or attempts or time are used up: the one retry loop of
/// all modes. Only what failed and may succeed is sent again, in its order. An entry that failed
/// for good (and not by its own fault) stops its lanes: later entries there stay blocked.
///
/// `send` is told until when it may take. The budget is the time in which nothing gets done.
pub(crate) async fn until_done<E, Send, Sent>(
    pipeline: &PipelineName,
    place: Place,
    context: &Context<'_>,
    entries: Vec<E>,
    lanes: impl Fn(&E) -> Vec<OrderedBy>,
    send: Send,
) -> Vec<Outcome>
where
    E: std::marker::Send,
    Send: Fn(Vec<E>, Deadline) -> Sent,
    Sent: Future<Output = (Vec<E>, Vec<Outcome>)>,
{
    let send = |entries: Vec<E>, until| {
        let sent = send(entries, until);
        async {
            let (entries, answers) = sent.await;
            let answers = one_for_each(&place, entries.len(), answers);
            (entries, answers)
        }
    };
    let mut attempts = context.retry.attempts(context.deadline);
    let (mut batch, mut answers) = send(entries, attempts.deadline()).await;
    // Mostly that was all.
    if answers.iter().all(is_done) {
        attempts.progressed();
        return answers;
    }
    let max_attempts = context.retry.policy().max_attempts;
    let mut places: Vec<usize> = (0..batch.len()).collect();
    let mut outcomes = vec![Outcome::Blocked; batch.len()];
    let mut transient = vec![0u32; batch.len()];
    loop {
        if answers.iter().any(is_done) {
            attempts.progressed();
        }
        let (mut stopped, mut again) = (HashSet::new(), Vec::new());
        let mut failed: Option<StoreError> = None;
        for ((entry, outcome), place) in batch.into_iter().zip(answers).zip(places) {
            let retry = match &outcome {
                Outcome::Applied | Outcome::Duplicate | Outcome::Superseded => false,
                Outcome::Blocked => {
                    let lanes = lanes(&entry);
                    let blocked = lanes.iter().any(|lane| stopped.contains(lane));
                    if blocked {
                        // It holds up what comes after it in its other lanes.
                        stopped.extend(lanes);
                    }
                    !blocked
                }
                Outcome::Failed(error) => {
                    let fault = error.fault();
                    let retry = match fault {
                        Fault::Contention => true,
                        // It was not sent, so it failed nowhere: time alone ends it.
                        Fault::Transient if matches!(error, StoreError::DeadlinePassed { .. }) => {
                            true
                        }
                        Fault::Transient => {
                            transient[place] = transient[place].saturating_add(1);
                            let may = transient[place] < max_attempts;
                            if !may {
                                attempts.exhausted();
                            }
                            may
                        }
                        Fault::Record | Fault::Setup => false,
                    };
                    if retry {
                        context.retried(pipeline, error);
                        // Where others got in the way of any, the wait is for them.
                        if failed.is_none() || fault == Fault::Contention {
                            failed = Some(error.clone());
                        }
                    } else if fault != Fault::Record {
                        stopped.extend(lanes(&entry));
                    }
                    retry
                }
            };
            outcomes[place] = outcome;
            if retry {
                again.push((entry, place));
            }
        }
        if again.is_empty() {
            return outcomes;
        }
        let wait = match &failed {
            Some(error) => attempts.wait_after(error.fault(), Some(error)),
            None => attempts.wait_after(Fault::Transient, None),
        };
        let Some(wait) = wait else {
            return outcomes;
        };
        if !attempts.rest(wait).await {
            return outcomes;
        }
        let entries;
        (entries, places) = again.into_iter().unzip();
        (batch, answers) = send(entries, attempts.deadline()).await;
    }
}
