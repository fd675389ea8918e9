//! Inputs for decoders: damaged output of an encoder, and random bytes.
//!
//! A decoder must not panic on any bytes, and must not accept bytes that its encoder never writes:
//! the value that it reads would differ from what was stored, and the next save would hide that.
//! [`accepts_only_what_it_writes`] checks both for [`CASES`] inputs, the same ones in every run.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use serde_json::Value;

/// The number of inputs for one decoder.
pub const CASES: u32 = 100_000;

/// Bytes with a meaning in one format or another.
const TELLING: &[u8] = b"\0\x01\x02\x7f\x80\xff \"\\{}[],:;/+-.eE0123456789SN";

/// [`CASES`] inputs: one of `samples` with zero to three pieces of damage, and now and then random
/// bytes.
///
/// A piece of damage flips a bit, sets, inserts or removes bytes, cuts the end off, repeats a part
/// elsewhere, or replaces a part with a part of another sample. Half of the parts start and end at
/// one of the bytes in `seams`, such as the commas of a JSON text, so that whole fields are
/// repeated and lost.
///
/// # Panics
///
/// If there are no samples.
pub fn damaged(samples: &[impl AsRef<[u8]>], seams: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    assert!(!samples.is_empty(), "no samples to damage");
    (0..CASES).map(|seed| {
        let rng = &mut Rng::with_seed(seed.into());
        if rng.u8(..16) == 0 {
            let length = rng.usize(..48);
            return (0..length).map(|_| rng.u8(..)).collect();
        }
        let any = |rng: &mut Rng| samples[rng.usize(..samples.len())].as_ref();
        let mut bytes = any(rng).to_vec();
        for _ in 0..rng.u8(..4) {
            let other = any(rng);
            inflict(rng, &mut bytes, other, seams);
        }
        bytes
    })
}

/// A position in `bytes`, its end included.
fn place(rng: &mut Rng, bytes: &[u8], seams: &[u8]) -> usize {
    let at = rng.usize(..=bytes.len());
    if seams.is_empty() || rng.bool() {
        return at;
    }
    let seam = bytes[at..].iter().position(|byte| seams.contains(byte));
    seam.map_or(bytes.len(), |further| at + further)
}

/// A part of `bytes`.
fn part(rng: &mut Rng, bytes: &[u8], seams: &[u8]) -> Range<usize> {
    let (one, other) = (place(rng, bytes, seams), place(rng, bytes, seams));
    one.min(other)..one.max(other)
}

fn inflict(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8], seams: &[u8]) {
    let at = place(rng, bytes, seams);
    let range = part(rng, bytes, seams);
    let telling = TELLING[rng.usize(..TELLING.len())];
    match rng.u8(..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
        1 if at < bytes.len() => bytes[at] = telling,
        2 => bytes.insert(at, telling),
        3 => bytes.insert(at, rng.u8(..)),
        4 => drop(bytes.drain(range)),
        5 => bytes.truncate(at),
        6 => {
            let repeated = bytes[range].to_vec();
            bytes.splice(at..at, repeated);
        }
        7 => {
            let taken = other[part(rng, other, seams)].to_vec();
            bytes.splice(range, taken);
        }
        _ => {}
    }
}

/// Passes [`CASES`] inputs made of `samples` to `again`, which decodes an input and encodes the
/// result, or returns `None` for an input that it refuses. An accepted input must equal the encoded
/// result.
///
/// # Panics
///
/// If the decoder panics, refuses a sample, or accepts an input that its encoder does not write.
pub fn accepts_only_what_it_writes(
    samples: &[impl AsRef<[u8]>],
    seams: &[u8],
    again: impl Fn(&[u8]) -> Option<Vec<u8>>,
) {
    check(samples, seams, again, |input, written| input == written);
}

/// The same for JSON texts, which may differ in white space, in the order of members and in the
/// escaping of characters. A missing, repeated or unknown member is a difference.
///
/// # Panics
///
/// As [`accepts_only_what_it_writes`].
pub fn accepts_only_json_it_writes(
    samples: &[impl AsRef<[u8]>],
    again: impl Fn(&[u8]) -> Option<Vec<u8>>,
) {
    check(samples, b"{}[],:\"", again, same_json);
}

fn check(
    samples: &[impl AsRef<[u8]>],
    seams: &[u8],
    again: impl Fn(&[u8]) -> Option<Vec<u8>>,
    same: impl Fn(&[u8], &[u8]) -> bool,
) {
    let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
    for sample in samples.iter().map(AsRef::as_ref) {
        assert!(again(sample).is_some(), "refused: {}", show(sample));
    }
    let mut harmed = 0;
    for input in damaged(samples, seams) {
        harmed += u32::from(samples.iter().all(|sample| sample.as_ref() != input));
        let written = catch_unwind(AssertUnwindSafe(|| again(&input)));
        let written = written.unwrap_or_else(|_| panic!("panicked at {}", show(&input)));
        if let Some(written) = written {
            assert!(
                same(&input, &written),
                "accepted, and not what is written:\n  {}\n  {}",
                show(&input),
                show(&written)
            );
        }
    }
    assert!(harmed > CASES / 2, "hardly any input was damaged");
}

/// Whether two JSON texts hold the same members. Repeated members and other forms of numbers change
/// the length.
fn same_json(one: &[u8], other: &[u8]) -> bool {
    let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    let (Some(a), Some(b)) = (value(one), value(other)) else {
        return one == other;
    };
    let is_escaped = one.contains(&b'\\');
    a == b && (is_escaped || bare(one) == bare(other))
}

/// The length of a JSON text without white space between its parts.
fn bare(text: &[u8]) -> usize {
    let mut within = false;
    let counts = |byte: &&u8| {
        within ^= **byte == b'"';
        within || !byte.is_ascii_whitespace()
    };
    text.iter().filter(counts).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_accepts_too_much_is_caught() {
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
        let lax = |text: &[u8]| number(text).map(|number| number.to_string().into_bytes());
        let strict = |text: &[u8]| lax(text).filter(|written| written == text);
        accepts_only_what_it_writes(&["12", "-7"], b"", strict);
        // The lax decoder also accepts "+12" and "07".
        catch_unwind(|| accepts_only_what_it_writes(&["12", "-7"], b"", lax)).unwrap_err();
        let panics = |text: &[u8]| number(text).map(|number| vec![b'0'; 20 - number as usize]);
        catch_unwind(|| accepts_only_what_it_writes(&["12"], b"", panics)).unwrap_err();
    }

    #[test]
    fn json_is_the_same_but_for_order_and_white_space() {
        let same = |one: &str, other: &str| same_json(one.as_bytes(), other.as_bytes());
        let text = r#"{"a":1,"b":" "}"#;
        assert!(same(text, r#"{ "b": " ", "a":1}"#));
        for other in [
            r#"{"a":1}"#,
            r#"{"a":1,"b":"  "}"#,
            r#"{"a":1,"a":1,"b":" "}"#,
        ] {
            assert!(!same(text, other), "{other}");
        }
    }
}
