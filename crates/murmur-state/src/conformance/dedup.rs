//! What a deduper does.

use std::sync::Arc;

use futures::future::join_all;

use super::{ROUNDS, TASKS};
use crate::dedup::{Claim, Owner};
use crate::tokens::Tokens;
use crate::{Deadline, Deduper};

/// Checks every promise of [`Deduper`].
pub async fn deduper<D: Deduper>(deduper: D) {
    let deduper = Arc::new(deduper);
    let tokens = Tokens::new();
    let (a, b) = (Owner::new(&tokens).unwrap(), Owner::new(&tokens).unwrap());
    let claim =
        async |id: &str, owner: &Owner| deduper.claim(id, owner, Deadline::NONE).await.unwrap();
    let release =
        async |id: &str, owner: &Owner| deduper.release(id, owner, Deadline::NONE).await.unwrap();

    assert_eq!(claim("id-1", &a).await, Claim::First);
    assert_eq!(
        claim("id-1", &b).await,
        Claim::Duplicate,
        "another owner's id"
    );
    assert_eq!(
        claim("id-1", &a).await,
        Claim::First,
        "a repeated claim of one's own"
    );
    assert_eq!(claim("id-2", &b).await, Claim::First, "another id");

    release("id-1", &b).await;
    assert_eq!(
        claim("id-1", &b).await,
        Claim::Duplicate,
        "a claim is only released by its owner"
    );
    release("id-1", &a).await;
    release("id-1", &a).await;
    assert_eq!(
        claim("id-1", &b).await,
        Claim::First,
        "a released id is free"
    );
    release("never-claimed", &a).await;

    for id in ["with spaces", "ä/🦀", &"long".repeat(200)] {
        assert_eq!(claim(id, &a).await, Claim::First);
        assert_eq!(claim(id, &b).await, Claim::Duplicate);
    }

    for round in 0..ROUNDS {
        let task = |_| {
            let (deduper, owner) = (Arc::clone(&deduper), Owner::new(&tokens).unwrap());
            tokio::spawn(async move {
                deduper
                    .claim(&format!("race-{round}"), &owner, Deadline::NONE)
                    .await
                    .unwrap()
            })
        };
        let answers = join_all((0..TASKS).map(task)).await;
        let first = answers
            .into_iter()
            .filter(|answer| *answer.as_ref().unwrap() == Claim::First);
        assert_eq!(
            first.count(),
            1,
            "exactly one of {TASKS} claims is the first"
        );
    }
}
