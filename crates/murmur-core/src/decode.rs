use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_dynamo::Item;

use crate::deserialize::from_item;
use crate::record::{EventName, Record, Side};

/// Any error, as user code returns it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of decoding an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<T> {
    /// A value to aggregate.
    Record(T),
    /// Nothing to aggregate, and no error: counted as skipped.
    Skip,
}

/// The input of a decoder of whole records ([`Decoder::record`]).
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The record, as its source gave it.
    pub record: &'a Record,
    /// Which side of the change to decode.
    pub side: Side,
}

impl<'a> View<'a> {
    /// The image of this side, if the record carries it.
    pub fn item(&self) -> Option<&'a Item> {
        match (self.record, self.side) {
            (Record::Scanned(row), Side::New) => Some(&row.item),
            (Record::Scanned(_), Side::Old) => None,
            (Record::Changed(change), Side::New) => change.new_image.as_ref(),
            (Record::Changed(change), Side::Old) => change.old_image.as_ref(),
        }
    }
}

/// Turns items into `T`, in the same way for scanned rows, old images and new images.
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
    /// Deserializes the item by [`from_item`], which reads every number exactly or refuses it.
    pub fn serde() -> Self
    where
        T: DeserializeOwned,
    {
        Self::item(|item| Ok(Decoded::Record(from_item(item)?)))
    }

    /// Decodes an item by `decode`. It is called for each image that exists and is needed: the row
    /// or new image, and the old image if a pipeline retracts.
    pub fn item(
        decode: impl Fn(&Item) -> Result<Decoded<T>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self(Form::Item(Arc::new(decode)))
    }

    /// Decodes by `decode`, which sees the whole record: event name, keys and both images.
    ///
    /// It is called:
    ///
    /// - for [`Side::New`] of every record, even without a new image, so that it can count removals
    ///   and read streams without images;
    /// - for [`Side::Old`] of changes to items that existed before, if a pipeline retracts.
    ///
    /// A retracting pipeline takes nothing from the new side of a removal. Return [`Decoded::Skip`]
    /// for records that do not count.
    ///
    /// It is not called for a record with an unreadable image
    /// ([`Change::unreadable_images`](crate::Change::unreadable_images)), since it may look at both
    /// images: such a record is rejected as a whole.
    pub fn record(
        decode: impl Fn(View<'_>) -> Result<Decoded<T>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self(Form::Record(Arc::new(decode)))
    }

    /// Whether it sees whole records instead of one image at a time.
    pub(crate) fn sees_records(&self) -> bool {
        matches!(self.0, Form::Record(_))
    }

    /// Decodes one side of `record`; `None` if the record does not have that side.
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

/// Whether a missing image is an error: a change of this kind has one, if the stream carries images
/// of this side.
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
