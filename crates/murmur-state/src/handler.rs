//! The contract between a source of events and what handles them.

use std::future::Future;

/// The error of a handler.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// What happens to a record that is delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Repeats {
    /// It is counted again.
    Counted,
    /// It is recognised by its event id and counted once. An item that is scanned and streamed has
    /// two event ids, and is counted twice.
    EventOnce,
    /// An item counts once, no matter how often it is scanned or streamed.
    ItemOnce,
}

/// The prefix of the event name of a record that its source could not read; the reason follows.
///
/// It is part of the contract between a source of events and its [`EventHandler`]. The source
/// passes on what it could read of the record (event id, sequence number, keys) under this name, so
/// that the handler rejects one record instead of failing the whole batch.
/// [`ImageNotes`](crate::images::ImageNotes) tell if only images could not be read.
pub const UNREADABLE: &str = "UNREADABLE: ";

/// Takes events of type `E`, each a batch of records in the form of their source, and answers which
/// records are done.
///
/// Every `Fn(E) -> Future<Output = Result<Answer, Error>>` implements it. The function that a
/// Lambda trigger calls can therefore be given to a trigger in this process without changes; it
/// gets a copy of each event. The trait is in this crate so that handlers and stream readers need
/// not depend on each other.
///
/// # Contract
///
/// The event is lent to the handler. The caller keeps no copy, and hands over again what is not
/// done. The handler may take parts out of the event while it works on them:
///
/// - If a record is not done, or the handler fails, the event must be unchanged when the handler
///   returns.
/// - If all records are done, the handler may have kept any part of the event.
///
/// Records may arrive more than once, in other batches, and even after they were answered as done;
/// [`repeats`](EventHandler::repeats) tells what happens to them then.
///
/// A record whose event name begins with [`UNREADABLE`] could not be read by its source. It is
/// rejected like any record that can never count; its readable parts are not counted. The exception
/// is a record whose [`ImageNotes`](crate::images::ImageNotes) say that everything but images is complete:
/// then only the unreadable images are rejected.
///
/// # Cancel safety
///
/// A call may be dropped halfway: its event is not read after that, and its records are delivered
/// again.
pub trait EventHandler<E>: Send + Sync {
    /// The answer: which records are done.
    type Answer;

    /// Processes the records of one batch, which are all of one shard and in its order. Leaves
    /// `event` unchanged unless all records are done.
    ///
    /// # Errors
    ///
    /// Any error that keeps the batch from being done: the whole batch is delivered again.
    fn handle(
        &self,
        event: &mut E,
        shard: &str,
    ) -> impl Future<Output = Result<Self::Answer, HandlerError>> + Send;

    /// What happens to records that are delivered again. Default, also for every function:
    /// [`Repeats::Counted`], the weakest promise.
    fn repeats(&self) -> Repeats {
        Repeats::Counted
    }
}

impl<F, E, Handled, A, Failed> EventHandler<E> for F
where
    E: Clone + Send,
    F: Fn(E) -> Handled + Send + Sync,
    Handled: Future<Output = Result<A, Failed>> + Send,
    Failed: Into<HandlerError>,
{
    type Answer = A;

    async fn handle(&self, event: &mut E, _shard: &str) -> Result<A, HandlerError> {
        self(event.clone()).await.map_err(Into::into)
    }
}
