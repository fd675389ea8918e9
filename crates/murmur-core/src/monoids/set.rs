use std::collections::BTreeSet;
use std::marker::PhantomData;

use murmur_state::Monoid;
use murmur_state::monoid::{Codec, CodecError, Overflow};

use super::element::{Element, Reader, Writer};

const KIND: u8 = b'S';

/// The set of all values seen.
///
/// Exact, so it grows with the number of values: a DynamoDB row ends at 400 KB, some 30,000 short
/// texts. A removed record does not remove its value.
///
/// Stored bytes, version 1: `01 'S' tag`, then the elements in ascending order. Each is four bytes
/// of length (big-endian) and its [`Element`] bytes.
#[derive(Debug, Clone, Copy)]
pub struct Set<E>(PhantomData<fn() -> E>);

impl<E> Set<E> {
    /// The set of all values seen.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E> Default for Set<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Element> Monoid for Set<E> {
    type Input = E;
    type Value = BTreeSet<E>;
    const IDEMPOTENT: bool = true;
    const NAME: &'static str = "set";

    fn identity(&self) -> BTreeSet<E> {
        BTreeSet::new()
    }

    fn lift(&self, input: E) -> BTreeSet<E> {
        BTreeSet::from([input])
    }

    fn combine(&self, into: &mut BTreeSet<E>, other: &BTreeSet<E>) -> Result<(), Overflow> {
        into.extend(other.iter().cloned());
        Ok(())
    }
}

impl<E: Element> Codec for Set<E> {
    fn encode(&self, value: &BTreeSet<E>) -> Vec<u8> {
        let mut writer = Writer::new(KIND, E::TAG);
        for element in value {
            writer.field(&element.to_bytes());
        }
        writer.finish()
    }

    fn decode(&self, bytes: &[u8]) -> Result<BTreeSet<E>, CodecError> {
        let mut reader = Reader::new(bytes, KIND, E::TAG)?;
        let mut set = BTreeSet::new();
        while !reader.is_empty() {
            let element = E::from_bytes(reader.field()?)?;
            if set.last().is_some_and(|last| *last >= element) {
                return Err(CodecError::new("the elements of a set are not ascending"));
            }
            set.insert(element);
        }
        Ok(set)
    }
}
