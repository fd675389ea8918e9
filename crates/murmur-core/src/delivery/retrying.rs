//! The retry loop that all modes share.

use std::collections::HashSet;
use std::future::Future;

use murmur_state::error::Place;
use murmur_state::store::{Add, Outcome};
use murmur_state::{Deadline, Fault, ItemId, Key, PipelineName, StoreError};

use super::context::Context;
use crate::answers::all_answered;

/// What makes the order of entries matter: they share this.
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

/// Returns the outcomes if there is one for each entry. Otherwise it is unknown which entries are
/// done, so all are reported as failed, and are delivered again.
fn one_for_each(place: &Place, entries: usize, outcomes: Vec<Outcome>) -> Vec<Outcome> {
    match all_answered(|| place.clone(), entries, outcomes) {
        Ok(outcomes) => outcomes,
        Err(error) => vec![Outcome::Failed(error); entries],
    }
}

/// Sends entries until each is settled, or attempts or time are used up. Only entries that failed
/// and may succeed are sent again, in their order. An entry that failed permanently, and not by its
/// own fault, stops its lanes: later entries in them stay blocked.
///
/// `send` gets the deadline of the attempt. The budget is the time in which no entry succeeds.
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
    // The common case.
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
                        // It blocks later entries in its other lanes.
                        stopped.extend(lanes);
                    }
                    !blocked
                }
                Outcome::Failed(error) => {
                    let fault = error.fault();
                    let retry = match fault {
                        Fault::Contention => true,
                        // It was not sent, so nothing failed; only time ends it.
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
                        // If any entry failed by contention, the wait is the one for contention.
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
