//! Decides which items are written together: few keys and many items to a transaction.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use murmur_state::Key;

/// Actions of one transaction (Amazon DynamoDB API Reference, TransactWriteItems).
const ACTIONS: usize = 100;

/// Bytes of one transaction. The service allows 4 MB, state rows included.
const BYTES: usize = 3 * 1024 * 1024;

/// An item to be written.
pub(crate) struct Parcel<'a> {
    /// The keys of the rows it changes, in order.
    pub(crate) keys: Vec<&'a Key>,
    /// The bytes of its ledger row.
    pub(crate) bytes: usize,
    /// Whether it must have a transaction of its own.
    pub(crate) alone: bool,
}

/// The transactions that write `parcels`, each as the indexes of its parcels. Those that change a
/// `contended` row share a transaction only with others that change exactly the same rows, so that
/// a conflict there fails no other items.
pub(crate) fn pack(parcels: &[Parcel<'_>], contended: &HashSet<Key>) -> Vec<Vec<usize>> {
    let mut transactions = Vec::new();
    let mut apart: BTreeMap<&[&Key], Vec<(usize, &Parcel<'_>)>> = BTreeMap::new();
    let mut free = Vec::new();
    for (place, parcel) in parcels.iter().enumerate() {
        // A parcel that changes no state row is cheaper alone.
        if parcel.alone || parcel.keys.is_empty() {
            transactions.push(vec![place]);
        } else if parcel.keys.iter().any(|key| contended.contains(*key)) {
            apart.entry(&parcel.keys).or_default().push((place, parcel));
        } else {
            free.push((place, parcel));
        }
    }
    // Neighbours share keys.
    free.sort_by(|(_, one), (_, other)| one.keys.cmp(&other.keys));
    for parcels in apart.into_values().chain([free]) {
        fill(&parcels, &mut transactions);
    }
    transactions
}

fn fill(parcels: &[(usize, &Parcel<'_>)], into: &mut Vec<Vec<usize>>) {
    let mut open = Vec::new();
    let mut keys = BTreeSet::new();
    let mut bytes = 0;
    for (place, parcel) in parcels {
        let more = parcel.keys.iter().filter(|key| !keys.contains(*key));
        let actions = open.len() + keys.len() + 1 + more.count();
        if !open.is_empty() && (actions > ACTIONS || bytes + parcel.bytes > BYTES) {
            into.push(std::mem::take(&mut open));
            keys.clear();
            bytes = 0;
        }
        open.push(*place);
        keys.extend(parcel.keys.iter().copied());
        bytes += parcel.bytes;
    }
    if !open.is_empty() {
        into.push(open);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: usize) -> Key {
        Key::new("k", n as i64).unwrap()
    }

    proptest! {
        #[test]
        fn every_parcel_is_in_one_transaction_that_fits(
            wanted in proptest::collection::vec(
                (proptest::collection::btree_set(0..40_usize, 0..98), 0..100_000_usize, 0..20_u8),
                0..300,
            ),
            contended in proptest::collection::btree_set(0..40_usize, 0..3),
        ) {
            let keys: Vec<Key> = (0..40).map(key).collect();
            let parcels: Vec<Parcel<'_>> = wanted
                .iter()
                .map(|(of, bytes, alone)| Parcel {
                    keys: of.iter().map(|n| &keys[*n]).collect(),
                    bytes: *bytes,
                    alone: *alone == 0,
                })
                .collect();
            let contended: HashSet<Key> = contended.into_iter().map(key).collect();
            let transactions = pack(&parcels, &contended);

            let mut all: Vec<usize> = transactions.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..parcels.len()).collect::<Vec<_>>());
            for transaction in &transactions {
                let of = transaction.iter().map(|place| &parcels[*place]);
                let keys: BTreeSet<_> = of.clone().flat_map(|parcel| &parcel.keys).collect();
                prop_assert!(transaction.len() + keys.len() <= 100);
                if transaction.len() > 1 {
                    prop_assert!(of.clone().all(|parcel| !parcel.alone && !parcel.keys.is_empty()));
                    prop_assert!(of.clone().map(|parcel| parcel.bytes).sum::<usize>() <= BYTES);
                    let apart = keys.iter().any(|key| contended.contains(**key));
                    let alike = of.clone().all(|parcel| parcel.keys == parcels[transaction[0]].keys);
                    prop_assert!(!apart || alike);
                }
            }
        }
    }

    #[test]
    fn rows_of_few_keys_take_few_transactions() {
        let keys: Vec<Key> = (0..10).map(key).collect();
        let parcels: Vec<Parcel<'_>> = (0..1000)
            .map(|n| Parcel {
                keys: vec![&keys[n * 7 % 10]],
                bytes: 300,
                alone: false,
            })
            .collect();
        let transactions = pack(&parcels, &HashSet::new());
        // 1,000 ledger rows, and each key about once more where it is split over two transactions.
        assert_eq!(transactions.len(), 11);
        let actions = |transaction: &Vec<usize>| {
            let keys: BTreeSet<_> = transaction.iter().map(|n| parcels[*n].keys[0]).collect();
            transaction.len() + keys.len()
        };
        assert!(transactions.iter().map(actions).sum::<usize>() <= 1020);
    }
}
