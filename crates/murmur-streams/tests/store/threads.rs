//! Producers and readers on many threads.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::{Clock, Timestamp};
use murmur_streams::source::{Cursor, Start};
use murmur_streams::{StreamRecord, StreamStore};

use crate::{ARN, batch, id_of, info, record, shard_ids, sharded, store};

#[test]
fn concurrent_producers_lose_nothing_and_share_no_number() {
    let store = store();
    let readers_shard = shard_ids(&store).remove(0);
    thread::scope(|scope| {
        for producer in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for _ in 0..250 {
                    store.put_record(record(&producer.to_string())).unwrap();
                }
            });
        }
        let (mut position, mut last) = (0, None);
        while position < 2_000 {
            let (records, next) = store
                .get_records(ARN, &readers_shard, position, 100)
                .unwrap();
            position = next;
            for record in records {
                assert!(record.sequence_number > last);
                last.clone_from(&record.sequence_number);
            }
            thread::yield_now();
        }
    });
    assert_eq!(
        store.shard_record_count(ARN, &readers_shard).unwrap(),
        2_000
    );
}

const ITEMS: usize = 7;
const CHANGES: i64 = 60;

/// Reads parents before children until everything is `put` and read. Returns each item's changes in
/// the order read.
fn follow(store: &StreamStore, put: &AtomicBool) -> HashMap<String, Vec<i64>> {
    let mut seen: HashMap<String, Vec<i64>> = HashMap::new();
    let mut cursors: HashMap<String, Cursor> = HashMap::new();
    let mut done: HashSet<String> = HashSet::new();
    loop {
        let (was_put, mut progress) = (put.load(Ordering::SeqCst), false);
        for shard in store.describe_stream(ARN).unwrap().shards {
            if done.contains(&shard.id) || shard.parent.is_some_and(|id| !done.contains(&id)) {
                continue;
            }
            let cursor = cursors
                .remove(&shard.id)
                .unwrap_or_else(|| Start::TrimHorizon.into());
            let read = batch(store, &shard.id, cursor, 16).unwrap();
            for record in read.records {
                progress = true;
                let changes = seen.entry(id_of(&record.change.keys)).or_default();
                changes.push(record.change.size_bytes);
            }
            match read.next {
                Some(next) => drop(cursors.insert(shard.id, next)),
                None => progress |= done.insert(shard.id),
            }
        }
        if was_put && !progress {
            return seen;
        }
        thread::yield_now();
    }
}

#[test]
fn each_reader_gets_each_items_changes_in_order_while_shards_split_and_roll_over() {
    let (store, _) = sharded(3);
    let put = AtomicBool::new(false);
    thread::scope(|scope| {
        let producers = [0, 1, 2, 3].map(|producer| {
            let store = &store;
            scope.spawn(move || {
                for change in 0..CHANGES {
                    for item in 0..ITEMS {
                        let put = store.put_record(StreamRecord {
                            size_bytes: change,
                            ..record(&format!("{producer}-{item}"))
                        });
                        put.unwrap();
                    }
                    thread::yield_now();
                }
            })
        });
        let closing = scope.spawn(|| {
            for round in 0..24 {
                let open = store.describe_stream(ARN).unwrap().shards;
                let open: Vec<_> = open.iter().filter(|s| s.ending.is_none()).collect();
                let shard = &open[round * 5 % open.len()].id;
                match round % 4 {
                    0 => drop(store.roll_over(ARN).unwrap()),
                    1 => drop(store.roll_over_shard(ARN, shard).unwrap()),
                    _ => drop(store.split(ARN, shard).unwrap()),
                }
                thread::yield_now();
            }
        });
        let readers = [(); 3].map(|()| scope.spawn(|| follow(&store, &put)));
        let writers = producers.into_iter().chain([closing]);
        let written: Vec<_> = writers.map(|writer| writer.join()).collect();
        put.store(true, Ordering::SeqCst);
        assert!(written.iter().all(Result::is_ok));
        for reader in readers {
            let seen = reader.join().unwrap();
            assert_eq!(seen.len(), 4 * ITEMS);
            for (item, changes) in seen {
                assert_eq!(changes, (0..CHANGES).collect::<Vec<_>>(), "{item}");
            }
        }
    });
    let shards = shard_ids(&store);
    let counts = shards
        .iter()
        .map(|shard| store.shard_record_count(ARN, shard).unwrap());
    assert_eq!(counts.sum::<usize>(), 4 * ITEMS * CHANGES as usize);
    assert!(shards.len() > 24);
}

#[test]
fn of_two_who_close_the_same_shard_one_is_refused() {
    for _ in 0..50 {
        let (store, _) = sharded(1);
        let shard = shard_ids(&store).remove(0);
        let closed = thread::scope(|scope| {
            let closers = [(); 2].map(|()| scope.spawn(|| store.split(ARN, &shard).is_ok()));
            closers.map(|closer| closer.join().unwrap())
        });
        assert!(closed[0] ^ closed[1]);
        assert_eq!(shard_ids(&store).len(), 3);
    }
}

/// A clock, and a destination, that call the store whenever they are used.
#[derive(Debug, Default)]
struct Nosy {
    store: OnceLock<StreamStore>,
    asking: AtomicBool,
}

impl Nosy {
    fn ask(&self) {
        let Some(store) = self.store.get() else {
            return;
        };
        // The call reads the clock again.
        if !self.asking.swap(true, Ordering::SeqCst) {
            store.describe_stream(ARN).ok();
            self.asking.store(false, Ordering::SeqCst);
        }
    }
}

impl Clock for Nosy {
    fn now(&self) -> Timestamp {
        self.ask();
        Timestamp::from_secs(1)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl Write for &Nosy {
    fn write_str(&mut self, _: &str) -> std::fmt::Result {
        self.ask();
        Ok(())
    }
}

#[test]
fn the_store_is_not_locked_while_it_calls_others() {
    let nosy = Arc::new(Nosy::default());
    let store = StreamStore::with_clock(nosy.clone());
    nosy.store.set(store.clone()).unwrap();
    store.register_stream(info());
    store.put_record(record("a")).unwrap();
    let shard = store.roll_over(ARN).unwrap().remove(0);
    store.split(ARN, &shard).unwrap();
    batch(&store, &shard, Start::TrimHorizon, 1).unwrap();
    write!(&mut &*nosy, "{store:?}").unwrap();
}
