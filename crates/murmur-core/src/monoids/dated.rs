use std::marker::PhantomData;

use murmur_state::monoid::{Codec, CodecError, Origin, Overflow};
use murmur_state::{Monoid, SequenceNumber, Timestamp};

use super::element::{Element, Reader, Writer};

/// A value with its place in an order.
///
/// Values are ordered by the user's time, then sequence number (a scanned row has none and comes
/// first), then event id, then the value itself. This order is total, so first and last do not
/// depend on the order in which records arrive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dated<E> {
    /// The time the user gave.
    pub at: Timestamp,
    /// The sequence number of the record, if it came from a stream.
    pub sequence: Option<SequenceNumber>,
    /// The event id of the record.
    pub id: String,
    /// The value.
    pub value: E,
}

/// Keeps one value per key by the time that the user gives; the input is `(time, value)`. Use it as
/// [`First`] or [`Last`]. A removed record does not undo it.
///
/// Stored bytes, version 1: `01`, `'F'` or `'L'`, and the element's tag. If there is a value, these
/// follow: its time (milliseconds, eight bytes), the sequence number's digits (empty for none), the
/// event id, and the [`Element`] bytes. The last three are each preceded by their length in four
/// bytes. All integers are big-endian.
#[derive(Debug, Clone, Copy)]
pub struct ByTime<E, const LAST: bool>(PhantomData<fn() -> E>);

/// The value of the earliest record.
pub type First<E> = ByTime<E, false>;

/// The value of the latest record.
pub type Last<E> = ByTime<E, true>;

impl<E, const LAST: bool> ByTime<E, LAST> {
    const KIND: u8 = if LAST { b'L' } else { b'F' };

    /// The value of the earliest or latest record.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E, const LAST: bool> Default for ByTime<E, LAST> {
    fn default() -> Self {
        Self::new()
    }
}

/// The stored form of a sequence number: equal ones have equal digits.
fn digits(sequence: Option<&SequenceNumber>) -> &str {
    match sequence.map(SequenceNumber::significant) {
        None => "",
        Some("") => "0",
        Some(digits) => digits,
    }
}

fn dated<E>((at, value): (Timestamp, E), origin: Option<Origin<'_>>) -> Option<Dated<E>> {
    Some(Dated {
        at,
        sequence: origin.and_then(|origin| origin.sequence.cloned()),
        id: origin.map_or_else(String::new, |origin| origin.id.to_owned()),
        value,
    })
}

impl<E: Element, const LAST: bool> Monoid for ByTime<E, LAST> {
    type Input = (Timestamp, E);
    type Value = Option<Dated<E>>;
    const IDEMPOTENT: bool = true;
    const NAME: &'static str = if LAST { "last" } else { "first" };

    fn identity(&self) -> Option<Dated<E>> {
        None
    }

    fn lift(&self, input: (Timestamp, E)) -> Option<Dated<E>> {
        dated(input, None)
    }

    fn lift_from(&self, input: (Timestamp, E), origin: Origin<'_>) -> Option<Dated<E>> {
        dated(input, Some(origin))
    }

    fn combine(
        &self,
        into: &mut Option<Dated<E>>,
        other: &Option<Dated<E>>,
    ) -> Result<(), Overflow> {
        let wins = |new: &Dated<E>, known: &Dated<E>| if LAST { new > known } else { new < known };
        if let Some(new) = other
            && into.as_ref().is_none_or(|known| wins(new, known))
        {
            *into = Some(new.clone());
        }
        Ok(())
    }

    /// Compares the times only: a scan cannot tell which of several values with the same time
    /// counts.
    fn agrees(&self, state: &Option<Dated<E>>, recount: &Option<Dated<E>>) -> bool {
        let at = |dated: &Option<Dated<E>>| dated.as_ref().map(|dated| dated.at);
        at(state) == at(recount)
    }
}

impl<E: Element, const LAST: bool> Codec for ByTime<E, LAST> {
    fn encode(&self, value: &Option<Dated<E>>) -> Vec<u8> {
        let mut writer = Writer::new(Self::KIND, E::TAG);
        if let Some(dated) = value {
            writer.integer(dated.at.as_millis());
            writer.field(digits(dated.sequence.as_ref()).as_bytes());
            writer.field(dated.id.as_bytes());
            writer.field(&dated.value.to_bytes());
        }
        writer.finish()
    }

    fn decode(&self, bytes: &[u8]) -> Result<Option<Dated<E>>, CodecError> {
        let mut reader = Reader::new(bytes, Self::KIND, E::TAG)?;
        if reader.is_empty() {
            return Ok(None);
        }
        let at = Timestamp::from_millis(reader.integer()?);
        let text = String::from_bytes(reader.field()?)?;
        let sequence = match text.as_str() {
            "" => None,
            text => Some(
                SequenceNumber::new(text).map_err(|error| CodecError::new(error.to_string()))?,
            ),
        };
        if digits(sequence.as_ref()) != text {
            return Err(CodecError::new("a sequence number has leading zeros"));
        }
        let id = String::from_bytes(reader.field()?)?;
        let value = E::from_bytes(reader.field()?)?;
        reader.finish()?;
        Ok(Some(Dated {
            at,
            sequence,
            id,
            value,
        }))
    }
}
