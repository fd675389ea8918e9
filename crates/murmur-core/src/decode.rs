use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_dynamo::Item;

use crate::deserialize::from_item;
use crate::record::{EventName, Record, Side};

/// Any error, as user code returns it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a decoder made of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<T> {
    /// A value to aggregate.
    Record(T),
    /// Nothing to aggregate, and nothing wrong: counted as skipped.
    Skip,
}

/// What a whole-record decoder sees.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The record, with everything its source said.
    pub record: &'a Record,
    /// Which state is asked for.
    pub side: Side,
}

impl<'a> View<'a> {
    /// The item in the state asked for, if the record carries it.
    pub fn item(&self) -> Option<&'a Item> {
        match (self.record, self.side) {
            (Record::Scanned(row), Side::New) => Some(&row.item),
            (Record::Scanned(_), Side::Old) => None,
            (Record::Changed(change), Side::New) => change.new_image.as_ref(),
            (Record::Changed(change), Side::Old) => change.old_image.as_ref(),
        }
    }
}

/// Turns items into `T`, the same way for scanned rows, old and new images.
///
/// The default, [`Decoder::serde`], suits any `T: Deserialize`. Cloning is cheap.
pub struct Decoder<T>(Form<T>);

type ItemFn<T> = dyn Fn(&Item) -> Result<Decoded<T>, BoxError> + Send + Sync;
type RecordFn<T> = dyn Fn(View<'_>) -> Result<Decoded<T>, BoxError> + Send + Sync;

enum Form<T> {
    Item(Arc<ItemFn<T>>),
    Record(Arc<RecordFn<T>>),
}

impl<T: 'static> Decoder<T> {
    /// Deserializes the item by [`from_item`], by which every number is exact or refused.
    pub fn serde() -> Self
    where
        T: DeserializeOwned,
    {
        Self::item(|item| Ok(Decoded::Record(from_item(item)?)))
    }

    /// Decodes an item by `decode`. It is called for each image that is there and needed: the
    /// row or new image, and the old image if a pipeline retracts.
    pub fn item(
        decode: impl Fn(&Item) -> Result<Decoded<T>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self(Form::Item(Arc::new(decode)))
    }

    /// Decodes by `decode`, which sees the whole record: its event name, keys and both images.
    ///
    /// It is asked for [`Side::New`] of every record, whether or not there is a new image, so
    /// that removals can be counted and streams without images be used; and for [`Side::Old`] of
    /// changes of items that were there before, if a pipeline retracts. A retracting pipeline takes
    /// nothing from the new side of a removal. Answer [`Decoded::Skip`] for what does not matter.
    ///
    /// It is not asked about a record one of whose images could not be read
    /// ([`Change::unreadable_images`](crate::Change::unreadable_images)), since it may look at both:
    /// such a record is rejected as a whole.
    pub fn record(
        decode: impl Fn(View<'_>) -> Result<Decoded<T>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self(Form::Record(Arc::new(decode)))
    }

    /// Whether it sees whole records, not one image at a time.
    pub(crate) fn sees_records(&self) -> bool {
        matches!(self.0, Form::Record(_))
    }

    /// Decodes one side of `record`. `None` where the record has no such side.
    pub(crate) fn decode(
        &self,
        record: &Record,
        side: Side,
    ) -> Option<Result<Decoded<T>, DecodeFailure>> {
        if side == Side::Old && record.had_nothing_before() {
            return None;
        }
        if let Some(reason) = record.unreadable(side) {
            return Some(Err(DecodeFailure::Unreadable(reason.to_owned())));
        }
        let view = View { record, side };
        match &self.0 {
            Form::Record(decode) => {
                let asked = match (record, side) {
                    (_, Side::New) => true,
                    (Record::Scanned(_), Side::Old) => false,
                    (Record::Changed(change), Side::Old) => change.event != EventName::Insert,
                };
                asked.then(|| decode(view).map_err(DecodeFailure::Undecodable))
            }
            Form::Item(decode) => match view.item() {
                Some(item) => Some(decode(item).map_err(DecodeFailure::Undecodable)),
                None if expected(record, side) => Some(Err(DecodeFailure::MissingImage)),
                None => None,
            },
        }
    }
}

/// Why one side of a record gave no value.
#[derive(Debug)]
pub(crate) enum DecodeFailure {
    Undecodable(BoxError),
    Unreadable(String),
    MissingImage,
}

/// Whether an image that is not there should be: a change of this kind has one, in a stream that
/// carries it.
fn expected(record: &Record, side: Side) -> bool {
    match record {
        Record::Scanned(_) => false,
        Record::Changed(change) => match (&change.event, side) {
            (EventName::Insert | EventName::Modify, Side::New) => true,
            (EventName::Modify | EventName::Remove, Side::Old) => true,
            (EventName::Remove, Side::New) | (EventName::Insert, Side::Old) => false,
            (EventName::Other(_) | EventName::Unreadable(_), _) => false,
        },
    }
}

impl<T> Clone for Decoder<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Form::Item(decode) => Form::Item(Arc::clone(decode)),
            Form::Record(decode) => Form::Record(Arc::clone(decode)),
        })
    }
}

impl<T> fmt::Debug for Decoder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Form::Item(_) => "Decoder::item",
            Form::Record(_) => "Decoder::record",
        })
    }
}
