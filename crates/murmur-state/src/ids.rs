use std::cmp::Ordering;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smol_str::SmolStr;

/// DynamoDB's limit on a partition key value, in bytes.
pub(crate) const MAX_PARTITION_KEY_BYTES: usize = 2048;

/// Longer marker keys carry a hash of their tail instead.
const MAX_PLAIN_MARKER_BYTES: usize = 512;

/// Why a name or id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The entity is empty. DynamoDB has no empty keys.
    #[error(
        "the entity is empty; give every record a key of at least one character, or none at all"
    )]
    EmptyEntity,
    /// The entity exceeds DynamoDB's limit for partition keys.
    #[error(
        "the entity has {bytes} bytes, over DynamoDB's limit of {MAX_PARTITION_KEY_BYTES}; shorten or hash it"
    )]
    EntityTooLong {
        /// The entity's length in bytes of UTF-8.
        bytes: usize,
    },
    /// The event id is empty. All events with empty ids would be one event.
    #[error("the event id is empty; without it a redelivered event cannot be told from a new one")]
    EmptyEventId,
    /// The text is not a decimal number.
    #[error("`{0}` is not a sequence number; expected decimal digits only")]
    SequenceNumber(String),
    /// The pipeline name has other characters than those that keep marker keys unambiguous.
    #[error("`{0}` is not a pipeline name; use 1 to 128 of the characters A-Z a-z 0-9 _ - .")]
    PipelineName(String),
}

/// The address of one row of state: an entity and a time bucket.
///
/// Cloning is cheap. An entity of up to 23 bytes needs no allocation, since a batch makes many
/// keys. Keys are ordered by entity, then bucket.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    entity: SmolStr,
    bucket: i64,
}

impl Key {
    /// The key of `entity` in `bucket`; without a window, the bucket is 0.
    ///
    /// # Errors
    ///
    /// [`IdError`] if the entity is empty, or longer than the 2,048 bytes that a row can hold.
    pub fn new(entity: impl AsRef<str>, bucket: i64) -> Result<Self, IdError> {
        let entity = entity.as_ref();
        match entity.len() {
            0 => Err(IdError::EmptyEntity),
            bytes if bytes > MAX_PARTITION_KEY_BYTES => Err(IdError::EntityTooLong { bytes }),
            _ => Ok(Self {
                entity: entity.into(),
                bucket,
            }),
        }
    }

    /// The entity that the row is about (`pk`).
    pub fn entity(&self) -> &str {
        &self.entity
    }

    /// The time bucket (`sk`); 0 without a window.
    pub fn bucket(&self) -> i64 {
        self.bucket
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:?}, {})", self.entity, self.bucket)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key{self}")
    }
}

/// The id that is the same on every delivery of an event.
///
/// For a stream record it is the stream's `eventID`, for a scanned row a name made from its primary
/// key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventId(Arc<str>);

impl EventId {
    /// The event id `id`.
    ///
    /// # Errors
    ///
    /// [`IdError::EmptyEventId`] if it is empty.
    pub fn new(id: impl Into<Arc<str>>) -> Result<Self, IdError> {
        let id = id.into();
        if id.is_empty() {
            Err(IdError::EmptyEventId)
        } else {
            Ok(Self(id))
        }
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for EventId {
    type Error = IdError;
    fn try_from(id: String) -> Result<Self, IdError> {
        Self::new(id)
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The prefix of the event ids of a scan.
const SCAN: &str = "scan/";

/// The name of a source item, made from its primary key: the same in a scan and in the stream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ItemId(Arc<str>);

impl ItemId {
    /// The id made from `parts`, in order; injective, because each part carries its length.
    pub fn from_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        // Enough for most names.
        let mut name = String::with_capacity(64);
        for part in parts {
            push_part(&mut name, part);
        }
        Self(name.into())
    }

    /// The id with the text `text`, as [`as_str`](ItemId::as_str) returned it.
    pub fn from_text(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The parts that it was [made from](ItemId::from_parts), in order; `None` if its text was made
    /// otherwise.
    pub fn parts(&self) -> Option<Vec<&str>> {
        let mut parts = Vec::new();
        let mut rest = self.as_str();
        while !rest.is_empty() {
            let (length, tail) = rest.split_once(':')?;
            let (part, tail) = tail.split_at_checked(length.parse().ok()?)?;
            parts.push(part);
            rest = tail;
        }
        // A length in another form, such as `+1`, is not accepted.
        (Self::from_parts(parts.iter().copied()) == *self).then_some(parts)
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the event "this item was scanned": the same in every run over the same table.
    pub fn scan_event(&self) -> EventId {
        EventId(format!("{SCAN}{}", self.0).into())
    }

    /// The item of a [scan event](ItemId::scan_event); `None` if `event` is not one.
    pub fn of_scan_event(event: &str) -> Option<Self> {
        event.strip_prefix(SCAN).map(Self::from_text)
    }
}

/// In the form people write: `order_id = "o18104"`, attributes of a primary key separated by
/// commas, numbers as they are, bytes as `0x01ff`. A name made otherwise is shown as its parts, or
/// as its text if it has none. For storage and comparison use [`as_str`](ItemId::as_str).
impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parts) = self.parts() else {
            return f.write_str(&self.0);
        };
        let is_key = |attribute: &[&str]| matches!(attribute, [_, "S" | "N" | "B" | "?", _]);
        if !parts.chunks(3).all(is_key) {
            return f.write_str(&parts.join(", "));
        }
        for (place, attribute) in parts.chunks(3).enumerate() {
            let &[name, kind, text] = attribute else {
                continue;
            };
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{name} = ")?;
            match kind {
                "S" => write!(f, "{text:?}")?,
                "B" => write!(f, "0x{text}")?,
                _ => f.write_str(text)?,
            }
        }
        Ok(())
    }
}

/// A stream record's sequence number: 21 to 40 digits from AWS, any number of digits here.
///
/// Compared as a number, and shown as it was given, since Lambda requires the exact text back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SequenceNumber(Arc<str>);

impl SequenceNumber {
    /// Reads a sequence number.
    ///
    /// # Errors
    ///
    /// [`IdError::SequenceNumber`] if it is empty or contains anything but decimal digits.
    pub fn new(digits: impl Into<Arc<str>>) -> Result<Self, IdError> {
        let digits = digits.into();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(IdError::SequenceNumber(digits.as_ref().to_owned()));
        }
        Ok(Self(digits))
    }

    /// The digits, as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits without leading zeros: the same for equal numbers, and empty for zero.
    pub fn significant(&self) -> &str {
        self.0.trim_start_matches('0')
    }

    /// The greatest smaller number; `None` for zero.
    pub fn predecessor(&self) -> Option<Self> {
        let digits = self.significant();
        // The last digit other than zero decreases by one, and the zeros after it become nines.
        let last = digits.rfind(|digit| digit != '0')?;
        let (head, zeros) = digits.split_at_checked(last + 1)?;
        let head = head.get(..last)?;
        let down = char::from(*digits.as_bytes().get(last)? - 1);
        let nines = "9".repeat(zeros.len());
        Some(Self(format!("{head}{down}{nines}").into()))
    }
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.significant() == other.significant()
    }
}

impl Eq for SequenceNumber {}

impl Hash for SequenceNumber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.significant().hash(state);
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.significant(), other.significant());
        a.len().cmp(&b.len()).then_with(|| a.cmp(b))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<String> for SequenceNumber {
    type Error = IdError;
    fn try_from(digits: String) -> Result<Self, IdError> {
        Self::new(digits)
    }
}

impl From<SequenceNumber> for String {
    fn from(number: SequenceNumber) -> Self {
        number.0.as_ref().to_owned()
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pipeline's name. It is part of its markers and metrics, and stays the same for its life.
///
/// It has 1 to 128 of the characters `A-Z a-z 0-9 _ - .`. A `/` is not among them and separates the
/// name from the rest of a marker key, so two pipelines never share one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PipelineName(Arc<str>);

impl PipelineName {
    /// The pipeline name `name`.
    ///
    /// # Errors
    ///
    /// [`IdError::PipelineName`] if it is empty, too long or outside the alphabet.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, IdError> {
        let name = name.into();
        let fits = (1..=128).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if fits {
            Ok(Self(name))
        } else {
            Err(IdError::PipelineName(name.as_ref().to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of one of this pipeline's rows in a marker table.
    ///
    /// Injective in (`kind`, `parts`): parts carry their lengths. If the key would be longer than
    /// 512 bytes, its parts are replaced by their SHA-256. `kind` is a word that Murmur chooses.
    pub fn marker(&self, kind: &str, parts: &[&str]) -> String {
        let room: usize = parts.iter().map(|part| part.len() + 4).sum();
        let mut plain = String::with_capacity(self.0.len() + kind.len() + 2 + room);
        for text in [&self.0, "/", kind, "/"] {
            plain.push_str(text);
        }
        let head = plain.len();
        for part in parts {
            push_part(&mut plain, part);
        }
        if plain.len() <= MAX_PLAIN_MARKER_BYTES {
            return plain;
        }
        let digest: String = Sha256::digest(&plain.as_bytes()[head..])
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{}/{kind}#sha256/{digest}", self.0)
    }
}

impl fmt::Display for PipelineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn push_part(into: &mut String, part: &str) {
    // Writing to a String cannot fail.
    let _ = write!(into, "{}:", part.len());
    into.push_str(part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn items_are_shown_as_people_write_keys() {
        let shown = |parts: &[&str]| ItemId::from_parts(parts.iter().copied()).to_string();
        assert_eq!(shown(&["order_id", "S", "o18104"]), "order_id = \"o18104\"");
        let key = ["pk", "B", "01ff", "sk", "N", "-3"];
        assert_eq!(shown(&key), "pk = 0x01ff, sk = -3");
        assert_eq!(shown(&["a", "S", "say \"x\"\r"]), r#"a = "say \"x\"\r""#);
        assert_eq!(shown(&["line 7"]), "line 7");
        assert_eq!(ItemId::from_text("odd").to_string(), "odd");
        let item = ItemId::from_parts(["id", "S", "o1"]);
        let event = item.scan_event();
        assert_eq!(ItemId::of_scan_event(event.as_str()), Some(item));
        assert_eq!(ItemId::of_scan_event("f00"), None);
    }

    fn number(digits: &str) -> SequenceNumber {
        SequenceNumber::new(digits).unwrap()
    }

    #[test]
    fn the_number_below_is_one_less() {
        let below = |digits: &str| number(digits).predecessor();
        let pairs = [
            ("1", "0"),
            ("10", "9"),
            ("1000", "999"),
            ("0021", "20"),
            ("1205", "1204"),
        ];
        for (digits, wanted) in pairs {
            assert_eq!(below(digits), Some(number(wanted)), "{digits}");
        }
        assert_eq!(below("000"), None);
        let forty = "9".repeat(40);
        assert_eq!(below(&format!("1{}", "0".repeat(40))), Some(number(&forty)));
    }

    #[test]
    fn sequence_numbers_compare_as_numbers_of_any_length() {
        let forty = "9".repeat(40);
        assert!(number("9") < number("10"));
        assert!(number("99999999999999999999999999999999999999") < number(&forty));
        assert_eq!(number("0007"), number("7"));
        assert_eq!(number("0007").as_str(), "0007");
        assert!(SequenceNumber::new("").is_err());
        assert!(SequenceNumber::new("12a").is_err());
        assert!(SequenceNumber::new("-1").is_err());
    }

    #[test]
    fn keys_that_no_row_could_hold_are_refused() {
        assert_eq!(Key::new("", 0), Err(IdError::EmptyEntity));
        assert!(Key::new("x".repeat(2048), 0).is_ok());
        assert_eq!(
            Key::new("é".repeat(1025), 0),
            Err(IdError::EntityTooLong { bytes: 2050 })
        );
        assert_eq!(EventId::new(""), Err(IdError::EmptyEventId));
    }

    #[test]
    fn pipeline_names_keep_to_their_alphabet() {
        assert!(PipelineName::new("order_totals-v2.1").is_ok());
        for bad in ["", "a/b", "a b", "ä", &"x".repeat(129)] {
            assert!(PipelineName::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn sequence_numbers_agree_with_integers(a: u128, b: u128) {
            let (x, y) = (number(&a.to_string()), number(&format!("000{b}")));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x == y, a == b);
        }

        #[test]
        fn markers_and_item_ids_are_injective(
            a in proptest::collection::vec("[0-9:/ab]{0,6}", 0..4),
            b in proptest::collection::vec("[0-9:/ab]{0,6}", 0..4),
        ) {
            let refs = |parts: &[String]| parts.iter().map(|p| p.as_str().to_owned()).collect::<Vec<_>>();
            let (ra, rb) = (refs(&a), refs(&b));
            let (sa, sb): (Vec<&str>, Vec<&str>) =
                (ra.iter().map(String::as_str).collect(), rb.iter().map(String::as_str).collect());
            let name = PipelineName::new("p").unwrap();
            prop_assert_eq!(name.marker("claim", &sa) == name.marker("claim", &sb), a == b);
            let item = ItemId::from_parts(sa.iter().copied());
            prop_assert_eq!(item == ItemId::from_parts(sb), a == b);
            prop_assert_eq!(item.parts(), Some(sa));
        }
    }

    #[test]
    fn long_markers_are_hashed_and_still_begin_with_the_name() {
        let name = PipelineName::new("likes").unwrap();
        let (long, other) = ("x".repeat(600), "y".repeat(600));
        let marker = name.marker("claim", &[&long]);
        // Rows are found by it in later releases.
        let digest = "700e83fb1f0c7b3525900e027142fde1aa58e5054f957aeb297fe7858bee653e";
        assert_eq!(marker, format!("likes/claim#sha256/{digest}"));
        assert_ne!(marker, name.marker("claim", &[&other]));
        assert_eq!(name.marker("claim", &["e1"]), "likes/claim/2:e1");
    }
}
