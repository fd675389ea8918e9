//! Every monoid keeps its laws, and its bytes can be read back.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::collections::BTreeSet;

use murmur_core::{Count, Dated, First, Last, Max, Min, Set, Sum, laws};
use murmur_state::{
    Codec, CodecError, EventId, Group, Monoid, Origin, Overflow, SequenceNumber, Timestamp,
};
use proptest::prelude::*;

fn dated() -> impl Strategy<Value = Option<Dated<String>>> {
    // Few values of each, so that ties at every level of the order are common.
    let sequence = proptest::option::of(0u64..4)
        .prop_map(|number| number.map(|number| SequenceNumber::new(number.to_string()).unwrap()));
    let dated =
        (0i64..3, sequence, "[ab]{0,1}", "[xy]{0,2}").prop_map(|(at, sequence, id, value)| Dated {
            at: Timestamp::from_secs(at - 1),
            sequence,
            id,
            value,
        });
    proptest::option::of(dated)
}

fn set() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set("[a-e\u{e9}]{0,3}", 0..6)
}

proptest! {
    #[test]
    fn sum_and_count_are_groups(a: i64, b: i64, c: i64) {
        laws::group(&Sum::new(), &a, &b, &c)?;
        laws::group(&Count::new(), &a, &b, &c)?;
    }

    #[test]
    fn min_and_max_are_idempotent_monoids(a: i64, b: i64, c: i64) {
        laws::monoid(&Min::new(), &a, &b, &c)?;
        laws::monoid(&Max::new(), &a, &b, &c)?;
    }

    #[test]
    fn first_and_last_are_idempotent_monoids(a in dated(), b in dated(), c in dated()) {
        laws::monoid(&First::<String>::new(), &a, &b, &c)?;
        laws::monoid(&Last::<String>::new(), &a, &b, &c)?;
        laws::codec(&First::<String>::new(), &a, &b)?;
        laws::codec(&Last::<String>::new(), &a, &b)?;
    }

    #[test]
    fn set_is_an_idempotent_monoid(a in set(), b in set(), c in set()) {
        laws::monoid(&Set::<String>::new(), &a, &b, &c)?;
        laws::codec(&Set::<String>::new(), &a, &b)?;
    }

    #[test]
    fn sets_of_other_elements_have_bytes_too(
        numbers in proptest::collection::btree_set(any::<i64>(), 0..6),
        blobs in proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 0..4), 0..6),
    ) {
        laws::codec(&Set::<i64>::new(), &numbers, &numbers.clone())?;
        laws::codec(&Set::<Vec<u8>>::new(), &blobs, &blobs.clone())?;
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), valid: bool) {
        if valid && bytes.len() > 2 {
            bytes[..3].copy_from_slice(&[1, b'L', 1]);
        }
        let _ = Set::<String>::new().decode(&bytes);
        let _ = Last::<String>::new().decode(&bytes);
        let _ = First::<i64>::new().decode(&bytes);
    }

    #[test]
    fn a_last_with_bytes_missing_or_too_many_is_an_error(value in dated()) {
        let last = Last::<String>::new();
        let bytes = last.encode(&value);
        // Cut after the head it is the identity; anywhere else it is refused.
        for end in (0..bytes.len()).filter(|end| *end != 3) {
            prop_assert!(last.decode(&bytes[..end]).is_err(), "{end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(last.decode(&longer).is_err());
    }
}

/// Keeps the left value: associative, but the order of records matters.
#[derive(Clone)]
struct KeepsLeft;

impl Monoid for KeepsLeft {
    type Input = i64;
    type Value = i64;
    const IDEMPOTENT: bool = true;
    fn identity(&self) -> i64 {
        0
    }
    fn lift(&self, input: i64) -> i64 {
        input
    }
    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        if *into == 0 {
            *into = *other;
        }
        Ok(())
    }
}

/// Claims to be idempotent, but is not.
#[derive(Clone)]
struct Doubles;

impl Monoid for Doubles {
    type Input = i64;
    type Value = i64;
    const IDEMPOTENT: bool = true;
    fn identity(&self) -> i64 {
        0
    }
    fn lift(&self, input: i64) -> i64 {
        input
    }
    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        *into = into.checked_add(*other).ok_or(Overflow)?;
        Ok(())
    }
}

/// A sum whose inverse is off by one, and whose bytes lose the sign.
#[derive(Clone)]
struct Sloppy;

impl Monoid for Sloppy {
    type Input = i64;
    type Value = i64;
    fn identity(&self) -> i64 {
        0
    }
    fn lift(&self, input: i64) -> i64 {
        input
    }
    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        Sum::new().combine(into, other)
    }
}

impl Group for Sloppy {
    fn invert(&self, value: &i64) -> Result<i64, Overflow> {
        Ok(1 - value)
    }
}

impl Codec for Sloppy {
    fn encode(&self, value: &i64) -> Vec<u8> {
        value.unsigned_abs().to_be_bytes().to_vec()
    }
    fn decode(&self, bytes: &[u8]) -> Result<i64, CodecError> {
        let bytes = bytes
            .try_into()
            .map_err(|_| CodecError::new("not 8 bytes"))?;
        Ok(i64::from_be_bytes(bytes))
    }
}

#[test]
fn the_law_checker_finds_inverses_and_bytes_that_are_wrong() {
    assert_eq!(laws::group(&Sloppy, &1, &2, &3).unwrap_err().law, "inverse");
    assert_eq!(laws::codec(&Sloppy, &1, &-2).unwrap_err().law, "round trip");
    assert_eq!(laws::codec(&Sloppy, &1, &2), Ok(()));
}

#[test]
fn the_law_checker_finds_what_is_no_monoid() {
    let order = laws::monoid(&KeepsLeft, &1, &2, &3).unwrap_err();
    assert_eq!(order.law, "commutativity");
    assert_eq!(
        laws::monoid(&Doubles, &1, &2, &3).unwrap_err().law,
        "idempotence"
    );
}

#[test]
fn a_sum_that_would_leave_its_range_is_refused_and_unchanged() {
    let mut total = i64::MAX;
    assert_eq!(Sum::new().combine(&mut total, &1), Err(Overflow));
    assert_eq!(total, i64::MAX);
}

#[test]
fn first_and_last_go_by_time_then_sequence_number_then_id() {
    let (early, late) = (EventId::new("a").unwrap(), EventId::new("b").unwrap());
    let (two, ten) = (
        SequenceNumber::new("2").unwrap(),
        SequenceNumber::new("10").unwrap(),
    );
    let last = Last::<i64>::new();
    let lift = |at, value, id: &EventId, sequence| {
        last.lift_from(
            (Timestamp::from_secs(at), value),
            Origin {
                id: id.as_str(),
                sequence,
            },
        )
    };
    let wins = |a: &Option<Dated<i64>>, b: &Option<Dated<i64>>| {
        let mut all = a.clone();
        last.combine(&mut all, b).unwrap();
        all.unwrap().value
    };
    let bare = last.lift((Timestamp::from_secs(2), 7)).unwrap();
    assert_eq!(
        (bare.at, bare.sequence, bare.value),
        (Timestamp::from_secs(2), None, 7)
    );
    let first = First::<i64>::new();
    let mut earliest = lift(2, 1, &early, None);
    for (at, value) in [(3, 2), (1, 3), (2, 4)] {
        let other = lift(at, value, &late, None);
        first.combine(&mut earliest, &other).unwrap();
    }
    assert_eq!(earliest.unwrap().value, 3);
    // The later time wins, for any sequence number.
    assert_eq!(
        wins(
            &lift(2, 1, &early, Some(&two)),
            &lift(1, 2, &early, Some(&ten))
        ),
        1
    );
    // The greater sequence number as a number: 10 after 2.
    assert_eq!(
        wins(
            &lift(1, 1, &early, Some(&ten)),
            &lift(1, 2, &early, Some(&two))
        ),
        1
    );
    // A streamed record after a scanned row.
    assert_eq!(
        wins(&lift(1, 1, &early, None), &lift(1, 2, &early, Some(&two))),
        2
    );
    // The greater id.
    assert_eq!(wins(&lift(1, 1, &early, None), &lift(1, 2, &late, None)), 2);
}

#[test]
fn bytes_of_another_kind_or_version_are_refused_with_their_name() {
    let set = Set::<String>::new();
    let bytes = set.encode(&BTreeSet::from(["a".to_owned()]));
    assert_eq!(bytes, [1, b'S', 1, 0, 0, 0, 1, b'a']);
    let message = |bytes: &[u8]| set.decode(bytes).unwrap_err().to_string();
    assert!(message(&[2, b'S', 1]).contains("version 2"));
    assert!(message(&[1, b'L', 1]).contains("kind"));
    assert!(message(&[]).contains("no bytes"));
    assert!(Set::<i64>::new().decode(&bytes).is_err());
}
