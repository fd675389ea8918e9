//! What a checkpoint store does.

use std::sync::Arc;

use futures::future::join_all;

use super::{ROUNDS, TASKS};
use crate::Checkpoints;
use crate::checkpoint::{Removed, Saved};

/// Checks every promise of [`Checkpoints`].
pub async fn checkpoints<C: Checkpoints>(checkpoints: C) {
    let checkpoints = Arc::new(checkpoints);
    let save =
        async |name: &str, data: &str, over| checkpoints.save(name, data, over).await.unwrap();
    let remove = async |name: &str, over| checkpoints.remove(name, over).await.unwrap();
    let load = async |name: &str| checkpoints.load(name).await.unwrap();

    assert_eq!(load("c").await, None);
    assert_eq!(
        save("c", "one", Some(1)).await,
        Saved::Conflict,
        "nothing to save over yet"
    );
    assert_eq!(save("c", "one", None).await, Saved::Version(1));
    assert_eq!(
        save("c", "one", None).await,
        Saved::Version(1),
        "one's own save, repeated"
    );
    assert_eq!(
        save("c", "other", None).await,
        Saved::Conflict,
        "there is one already"
    );
    assert_eq!(save("c", "two", Some(1)).await, Saved::Version(2));
    assert_eq!(
        save("c", "three", Some(1)).await,
        Saved::Conflict,
        "an old version"
    );
    let found = load("c").await.unwrap();
    assert_eq!((found.data.as_str(), found.version), ("two", 2));
    assert_eq!(load("d").await, None, "names are kept apart");

    for round in 0..ROUNDS {
        let version = load("c").await.unwrap().version;
        let task = |task: u64| {
            let checkpoints = Arc::clone(&checkpoints);
            tokio::spawn(async move {
                let data = format!("{round}-{task}");
                (
                    checkpoints.save("c", &data, Some(version)).await.unwrap(),
                    data,
                )
            })
        };
        let answers = join_all((0..TASKS).map(task)).await;
        let mut winners = answers
            .into_iter()
            .map(|answer| answer.unwrap())
            .filter(|(saved, _)| *saved == Saved::Version(version + 1));
        let (_, data) = winners
            .next()
            .expect("one of the concurrent saves succeeds");
        assert!(
            winners.next().is_none(),
            "only one of the concurrent saves succeeds"
        );
        assert_eq!(load("c").await.unwrap().data, data);
    }

    assert_eq!(
        remove("r", 1).await,
        Removed::Gone,
        "there was nothing to remove"
    );
    save("r", "one", None).await;
    save("r", "two", Some(1)).await;
    for other in [1, 3] {
        assert_eq!(
            remove("r", other).await,
            Removed::Conflict,
            "another version"
        );
    }
    let found = load("r").await.unwrap();
    assert_eq!(
        (found.data.as_str(), found.version),
        ("two", 2),
        "a removal that conflicts changes nothing"
    );
    assert_eq!(remove("r", 2).await, Removed::Gone);
    assert_eq!(load("r").await, None);
    assert_eq!(
        remove("r", 2).await,
        Removed::Gone,
        "one's own removal, repeated"
    );
    assert_eq!(
        save("r", "three", Some(2)).await,
        Saved::Conflict,
        "over a version that was removed"
    );
    assert_eq!(load("r").await, None, "nothing was saved");
    assert_eq!(
        save("r", "anew", None).await,
        Saved::Version(1),
        "a removed name can be used again"
    );
    assert!(load("c").await.is_some(), "other names are left alone");

    for round in 0..ROUNDS {
        let name = format!("race/{round}");
        save(&name, "start", None).await;
        let task = |task: u64| {
            let (checkpoints, name) = (Arc::clone(&checkpoints), name.clone());
            tokio::spawn(async move {
                let saves = (task + round).is_multiple_of(2);
                let won = if saves {
                    let saved = checkpoints.save(&name, &task.to_string(), Some(1)).await;
                    saved.unwrap() == Saved::Version(2)
                } else {
                    checkpoints.remove(&name, 1).await.unwrap() == Removed::Gone
                };
                (saves, won)
            })
        };
        let (mut saved, mut removed) = (0, 0);
        for answer in join_all((0..TASKS).map(task)).await {
            match answer.unwrap() {
                (true, won) => saved += u64::from(won),
                (false, won) => removed += u64::from(won),
            }
        }
        let left = load(&name).await.map(|left| left.version);
        let expected = match left {
            Some(_) => (1, 0, Some(2)),
            None => (0, TASKS / 2, None),
        };
        assert_eq!(
            (saved, removed, left),
            expected,
            "either one of the concurrent saves succeeds or the removals do"
        );
    }

    large_checkpoints(&checkpoints).await;
}

/// Checks a checkpoint that is larger than the largest piece that its store keeps.
async fn large_checkpoints<C: Checkpoints>(checkpoints: &Arc<C>) {
    let text = |name: &str, bytes: usize| name.repeat(bytes / name.len());
    let save = async |data: &str, over| checkpoints.save("large", data, over).await.unwrap();
    let load = async || checkpoints.load("large").await.unwrap();
    let found = async |data: &str, version| {
        let found = load().await.expect("it was saved");
        // Not by `assert_eq`, which would print both.
        assert!(
            found.data == data,
            "a large checkpoint is loaded as it was saved"
        );
        assert_eq!(found.version, version);
    };

    let (one, two) = (text("first €, ", 3_000_000), text("second 🦀, ", 1_000_000));
    assert_eq!(save(&one, Some(1)).await, Saved::Conflict);
    assert_eq!(load().await, None, "nothing was saved");
    assert_eq!(save(&one, None).await, Saved::Version(1));
    found(&one, 1).await;
    assert_eq!(
        save(&one, None).await,
        Saved::Version(1),
        "one's own save, repeated"
    );
    found(&one, 1).await;
    assert_eq!(
        save(&two, None).await,
        Saved::Conflict,
        "there is one already"
    );
    found(&one, 1).await;
    let other = text("other, ", 500_000);
    // The same text again, smaller, small, and large once more.
    for (over, data) in [(1, &one), (2, &two), (3, &"small".to_owned()), (4, &one)] {
        assert_eq!(save(data, Some(over)).await, Saved::Version(over + 1));
        found(data, over + 1).await;
        assert_eq!(
            save(&other, Some(over)).await,
            Saved::Conflict,
            "an old version"
        );
        found(data, over + 1).await;
    }
    assert_eq!(
        checkpoints.remove("large", 4).await.unwrap(),
        Removed::Conflict
    );
    found(&one, 5).await;
    assert_eq!(checkpoints.remove("large", 5).await.unwrap(), Removed::Gone);
    assert_eq!(load().await, None);
    assert_eq!(
        save(&one, None).await,
        Saved::Version(1),
        "a name can be used again"
    );
    found(&one, 1).await;

    for version in 1..=3 {
        let task = |task: usize| {
            let checkpoints = Arc::clone(checkpoints);
            tokio::spawn(async move {
                // Two tasks for each text, so that some take each other's saves for their own.
                let data = text(&format!("{version}-{}, ", task / 2), 500_000);
                let saved = checkpoints.save("large", &data, Some(version)).await;
                (saved.unwrap() == Saved::Version(version + 1), data)
            })
        };
        let saves = join_all((0..6).map(task));
        let loads = async {
            for _ in 0..6 {
                let found = load().await.expect("it is never gone");
                let first = found.data.split_inclusive(", ").next().unwrap();
                assert!(
                    found.data == text(first, found.data.len()),
                    "a load sees one save, whole"
                );
            }
        };
        let (answers, ()) = futures::future::join(saves, loads).await;
        let won: Vec<String> = answers
            .into_iter()
            .map(|answer| answer.unwrap())
            .filter_map(|(won, data)| won.then_some(data))
            .collect();
        let found = load().await.unwrap();
        assert_eq!(found.version, version + 1);
        assert!(
            !won.is_empty() && won.iter().all(|data| *data == found.data),
            "one text is saved, and its writer is told so"
        );
    }
}
