//! Several shards: which items they have, and how they are closed.

use std::collections::{BTreeMap, BTreeSet};

use murmur_streams::source::{ShardInfo, Start};
use murmur_streams::{StreamError, StreamStatus, StreamStore};

use crate::{ARN, all, info, number, put, read, record, shard_ids, sharded, store};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("item {n}")).collect()
}

fn put_each(store: &StreamStore, names: &[String]) {
    for name in names {
        store.put_record(record(name)).unwrap();
    }
}

fn shards(store: &StreamStore) -> BTreeMap<String, ShardInfo> {
    let shards = store.describe_stream(ARN).unwrap().shards.into_iter();
    shards.map(|shard| (shard.id.clone(), shard)).collect()
}

/// The items of which a shard has records.
fn items(store: &StreamStore, shard: &str) -> BTreeSet<String> {
    all(store, shard).into_iter().collect()
}

#[test]
fn a_rolled_over_shard_is_closed_and_its_child_goes_on() {
    let store = store();
    let [first, last] = &put(&store, &["a", "b"])[..] else {
        panic!()
    };
    let children = store.roll_over(ARN).unwrap();
    let next = &put(&store, &["c"])[0];
    assert!(next > last);

    let described = store.describe_stream(ARN).unwrap();
    let [old, new] = &described.shards[..] else {
        panic!("{described:?}")
    };
    assert_eq!(
        (old.first.as_ref(), old.ending.as_ref()),
        (Some(first), Some(last))
    );
    assert_eq!(
        (&children[..], new.parent.as_ref()),
        (&[new.id.clone()][..], Some(&old.id))
    );
    assert_eq!((new.first.as_ref(), &new.ending), (Some(next), &None));
    assert!(described.is_closed(old) && !described.is_closed(new));

    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        read(&store, &old.id, Start::TrimHorizon),
        (ids(&["a", "b"]), false)
    );
    assert_eq!(
        read(&store, &new.id, Start::TrimHorizon),
        (ids(&["c"]), true)
    );
}

#[test]
fn a_stream_begins_with_as_many_open_shards_as_asked_for() {
    for count in [1, 2, 7, 10_000] {
        let (store, _) = sharded(count);
        let shards = store.describe_stream(ARN).unwrap().shards;
        assert_eq!(shards.len(), count);
        let is_new = |shard: &ShardInfo| shard.parent.is_none() && shard.ending.is_none();
        assert!(shards.iter().all(is_new));
        assert!(shards.is_sorted_by(|a, b| a.id < b.id));
    }
    let store = StreamStore::new();
    for count in [0, 10_001, usize::MAX] {
        let error = store
            .register_stream_with_shards(info(), count)
            .unwrap_err();
        assert_eq!(error.option, "shards");
        assert!(error.to_string().contains("1..=10000"), "{error}");
    }
    assert!(
        store.describe_stream(ARN).is_err(),
        "nothing was registered"
    );
}

#[test]
fn an_item_is_always_in_the_same_shard_and_every_shard_has_some() {
    let (store, _) = sharded(8);
    let names = names(400);
    put_each(&store, &names);
    put_each(&store, &names);
    let mut seen = BTreeSet::new();
    for shard in shard_ids(&store) {
        let items = items(&store, &shard);
        // 50 are expected; the odds against a fair hash are beyond mention.
        assert!((15..=100).contains(&items.len()), "{}", items.len());
        assert_eq!(all(&store, &shard).len(), 2 * items.len());
        for item in items {
            assert!(seen.insert(item), "in two shards");
        }
    }
    assert_eq!(seen.len(), 400);
}

#[test]
fn a_split_shards_items_are_shared_out_to_its_children() {
    let (store, _) = sharded(2);
    let names = names(200);
    let [split, other] = &shard_ids(&store)[..] else {
        panic!()
    };
    put_each(&store, &names);
    let (before, others) = (items(&store, split), all(&store, other).len());
    let children = store.split(ARN, split).unwrap();
    put_each(&store, &names);

    let shards = shards(&store);
    assert_eq!(shards.len(), 4);
    assert!(shards[split].ending.is_some() && shards[other].ending.is_none());
    assert_eq!(items(&store, split), before, "takes no more");
    assert_eq!(all(&store, other).len(), 2 * others, "goes on");
    let halves = [0, 1].map(|half| items(&store, &children[half]));
    for (child, half) in children.iter().zip(&halves) {
        assert_eq!(shards[child].parent.as_ref(), Some(split));
        assert!(shards[child].ending.is_none());
        assert!(shards[child].first > shards[split].ending);
        assert!(half.len() > before.len() / 5, "{half:?}");
    }
    assert!(halves[0].is_disjoint(&halves[1]));
    assert_eq!(&halves[0] | &halves[1], before);
    assert!(!read(&store, split, Start::TrimHorizon).1);
}

#[test]
fn one_shard_alone_can_roll_over() {
    let (store, _) = sharded(3);
    let names = names(60);
    let roots = shard_ids(&store);
    put_each(&store, &names);
    let child = store.roll_over_shard(ARN, &roots[1]).unwrap();
    put_each(&store, &names);
    let shards = shards(&store);
    assert_eq!(shards.len(), 4);
    assert_eq!(shards[&child].parent.as_ref(), Some(&roots[1]));
    for root in &roots {
        assert_eq!(shards[root].ending.is_some(), *root == roots[1]);
    }
    assert_eq!(items(&store, &child), items(&store, &roots[1]));
    assert_eq!(all(&store, &child), all(&store, &roots[1]));
}

#[test]
fn rolling_over_closes_every_open_shard_and_no_other() {
    let (store, _) = sharded(2);
    let roots = shard_ids(&store);
    let halves = store.split(ARN, &roots[0]).unwrap();
    let children = store.roll_over(ARN).unwrap();
    let shards = shards(&store);
    assert_eq!(shards.len(), 4 + 3);
    assert!(children.is_sorted());
    let parents: BTreeSet<_> = children
        .iter()
        .map(|child| shards[child].parent.clone().unwrap())
        .collect();
    let [lower, upper] = halves;
    assert_eq!(parents, BTreeSet::from([lower, upper, roots[1].clone()]));
    for (id, shard) in &shards {
        assert_eq!(shard.ending.is_none(), children.contains(id));
    }
}

#[test]
fn a_shard_that_is_closed_or_unknown_is_not_closed_again() {
    let (store, _) = sharded(1);
    let root = shard_ids(&store).remove(0);
    let [child, _] = store.split(ARN, &root).unwrap();
    store.roll_over_shard(ARN, &child).unwrap();
    let before = shards(&store);
    for closed in [&root, &child] {
        for error in [
            store.split(ARN, closed).unwrap_err(),
            store.roll_over_shard(ARN, closed).unwrap_err(),
        ] {
            assert!(
                matches!(&error, StreamError::ShardClosed { arn, shard } if arn == ARN && shard == closed)
            );
            assert!(error.to_string().contains(closed) && !error.is_retryable());
        }
    }
    for error in [
        store.split(ARN, "no").unwrap_err(),
        store.roll_over_shard(ARN, "no").unwrap_err(),
    ] {
        assert!(matches!(&error, StreamError::UnknownShard { shard, .. } if shard == "no"));
    }
    assert_eq!(shards(&store), before);
}

#[test]
fn a_shard_of_a_single_hash_cannot_be_split_and_can_roll_over() {
    for side in [0, 1] {
        let (store, _) = sharded(1);
        let mut shard = shard_ids(&store).remove(0);
        for _ in 0..64 {
            shard = store.split(ARN, &shard).unwrap()[side].clone();
        }
        let before = shards(&store);
        let error = store.split(ARN, &shard).unwrap_err();
        assert!(
            matches!(&error, StreamError::ShardTooNarrow { shard: named, .. } if *named == shard)
        );
        assert!(error.to_string().contains(&shard) && error.to_string().contains(ARN));
        assert_eq!(shards(&store), before);
        store.roll_over_shard(ARN, &shard).unwrap();
        put_each(&store, &names(20));
    }
}

#[test]
fn an_item_is_followed_down_to_its_single_hash() {
    let (store, _) = sharded(1);
    let mut shard = shard_ids(&store).remove(0);
    for depth in 0..64 {
        let children = store.split(ARN, &shard).unwrap();
        put(&store, &["a"]);
        let counts = children
            .each_ref()
            .map(|child| store.shard_record_count(ARN, child).unwrap());
        assert!(matches!(counts, [0, 1] | [1, 0]), "{depth}: {counts:?}");
        let [lower, upper] = children;
        shard = if counts[0] == 1 { lower } else { upper };
    }
    assert!(matches!(
        store.split(ARN, &shard),
        Err(StreamError::ShardTooNarrow { .. })
    ));
    assert_eq!(all(&store, &shard), ["a"]);
}

#[test]
fn numbers_rise_from_parent_to_child_also_from_an_empty_one() {
    let (store, _) = sharded(1);
    let root = shard_ids(&store).remove(0);
    let child = store.roll_over_shard(ARN, &root).unwrap();
    let next = put(&store, &["a"]).remove(0);
    let shards = shards(&store);
    let ending = shards[&root].ending.clone();
    assert!(ending.is_some() && ending == shards[&root].first);
    assert!(shards[&child].first > ending);
    assert_eq!(shards[&child].first, Some(next));
    // A number that the caller chose may not be below it either.
    let (store, _) = sharded(1);
    store.roll_over(ARN).unwrap();
    let mut low = record("a");
    low.sequence_number = Some(number("5"));
    assert!(matches!(
        store.put_record(low),
        Err(StreamError::NotRising { .. })
    ));
}

#[test]
fn a_stream_enabled_again_goes_on_in_children_of_the_same_ranges() {
    let (store, _) = sharded(2);
    let names = names(80);
    store.split(ARN, &shard_ids(&store)[0]).unwrap();
    put_each(&store, &names);
    let disabled = info().with_status(StreamStatus::Disabling);
    store.register_stream(disabled);
    let before = shards(&store);
    assert!(before.values().all(|shard| shard.ending.is_some()));
    for refused in [
        store.put_record(record("a")).map(drop),
        store.roll_over(ARN).map(drop),
        store.roll_over_shard(ARN, "any").map(drop),
        store.split(ARN, "any").map(drop),
    ] {
        assert!(matches!(refused, Err(StreamError::Disabled { arn }) if arn == ARN));
    }
    assert_eq!(shards(&store), before);

    store.register_stream(info());
    put_each(&store, &names);
    let after = shards(&store);
    let children: Vec<_> = after.values().filter(|s| s.ending.is_none()).collect();
    assert_eq!(children.len(), 3);
    for child in children {
        let parent = child.parent.as_ref().unwrap();
        assert_eq!(items(&store, &child.id), items(&store, parent));
        assert!(!items(&store, parent).is_empty());
    }
}
