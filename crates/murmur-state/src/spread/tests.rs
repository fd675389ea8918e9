use super::*;

#[test]
fn an_id_is_in_the_same_row_in_every_release() {
    // What `printf '%s' id | sha256sum` begins with, modulo the rows.
    for (id, first) in [
        ("1", 0x6b86_b273_ff34_fce1_u64),
        ("e1", 0x8b5c_c4df_7eec_7d32),
        ("again-0", 0xd681_2455_ad44_535f),
        ("scan/1:x", 0xff44_268c_781d_f588),
    ] {
        for rows in [2, 3, 8, 1_000] {
            assert_eq!(u64::from(number_of(id, rows)), first % u64::from(rows));
        }
    }
    let vectors = [("1", 1), ("e1", 2), ("again-0", 7), ("scan/1:x", 0)];
    for (id, number) in vectors {
        assert_eq!(number_of(id, 8), number, "{id}");
    }
}

#[test]
fn ids_are_spread_evenly() {
    let mut rows = [0; 8];
    for n in 0..8_000 {
        rows[number_of(&format!("event-{n}"), 8) as usize] += 1;
    }
    assert!(
        rows.iter().all(|row| (850..1_150).contains(row)),
        "{rows:?}"
    );
}

#[test]
fn the_definition_tells_one_list_of_names_from_another() {
    let words = |names: &[&str]| {
        let spread = Spread::new((), (), 8).unwrap();
        spread.only(names.iter().copied()).unwrap().words()
    };
    assert_eq!(
        Spread::new((), (), 8).unwrap().words(),
        "spread over 8 rows"
    );
    assert_eq!(words(&["de", "all", "de"]), "spread over 8 rows: all, de");
    assert_eq!(words(&["all, de"]), "spread over 8 rows: \"all, de\"");
    assert_eq!(words(&[r#"a"\"#]), r#"spread over 8 rows: "a\"\\""#);
    assert_ne!(words(&["a", "b"]), words(&["a, b"]));
}

#[test]
fn what_overflows_in_one_order_is_combined_in_another() {
    #[derive(Clone)]
    struct Sum;
    impl Monoid for Sum {
        type Input = i64;
        type Value = i64;
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
    let combined = |values: &[i64]| {
        let mut combined = Combined {
            value: None,
            spilt: Vec::new(),
        };
        for value in values {
            combined.add(&Sum, *value);
        }
        combined.value(&Sum)
    };
    assert_eq!(combined(&[]), Ok(None));
    assert_eq!(combined(&[i64::MAX, 5, -9]), Ok(Some(i64::MAX - 4)));
    assert_eq!(combined(&[i64::MAX, 5, -4]), Err(Overflow));
}

#[test]
fn outcomes_are_put_in_the_places_of_their_entries() {
    let take = |n: &u32| match n % 2 {
        0 => Ok(*n),
        _ => Err(StoreError::Overflow {
            place: Place::table("test", n.to_string()),
        }),
    };
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    let with = |entries: &[u32], answers: usize| {
        let taken = Taken::of(entries, take);
        let all = taken.with(vec![Outcome::Applied; answers]);
        all.iter().map(failed).collect::<Vec<_>>()
    };
    assert_eq!(
        with(&[1, 3, 2, 5, 4, 7], 2),
        [true, true, false, true, false, true]
    );
    assert_eq!(with(&[2, 4], 2), [false, false]);
    assert_eq!(with(&[1], 0), [true]);
    // A store that answers too few or too many is not covered up.
    assert_eq!(with(&[2, 1, 4], 1).len(), 2);
    assert_eq!(with(&[2, 1, 4], 3).len(), 4);
}
