use std::future::Future;

/// What a handler fails with.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// What becomes of a record that comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Repeats {
    /// It is counted again.
    Counted,
    /// It is recognised by its event id and counted once. The same item, once scanned and once
    /// streamed, has two event ids and is counted twice.
    EventOnce,
    /// The same item counts once, however often it is scanned or streamed.
    ItemOnce,
}

/// How the event name of a record that its source could not read begins; the reason follows.
///
/// Part of the contract between a source of events and its [`EventHandler`]: a source passes on
/// what it could read of such a record (event id, sequence number, keys) under this name, so that
/// the handler rejects one record instead of failing on a whole batch. Where all but images could be
/// read, [`ImageNotes`](crate::ImageNotes) say so.
pub const UNREADABLE: &str = "UNREADABLE: ";

/// What takes events of type `E`, each a batch of records in the form its source gives them, and
/// says what became of them.
///
/// Every `Fn(E) -> Future<Output = Result<Answer, Error>>` is one, so that the function a trigger
/// in the cloud calls can be handed to a trigger of this process as it is; it is given a copy of
/// each event. The trait is here so that whoever handles and whoever reads need not know each other.
///
/// # Contract
///
/// An event is lent: what is not done its caller hands over again, without having kept a copy. A
/// handler may take parts out of the event while it works on them. When it answers that a record is
/// not done, or fails, the event is as it was; when all is done it may have kept any of it.
///
/// Records may come more than once, in whatever company, even after they were answered as done;
/// [`repeats`](EventHandler::repeats) says what becomes of them then. A record whose event name
/// begins with [`UNREADABLE`] could not be read by its source. It is rejected like any record that
/// can never count, and never counted by what is left of it, unless its
/// [`ImageNotes`](crate::ImageNotes) say that what is left is whole: then only the images that could
/// not be read are rejected.
///
/// # Cancel safety
///
/// A call may be dropped halfway: nothing reads its event then, and its records come again.
pub trait EventHandler<E>: Send + Sync {
    /// Says which records are done.
    type Answer;

    /// Processes the records of one batch, which all are of one shard and in its order, and leaves
    /// `event` as it was unless all is done.
    ///
    /// # Errors
    ///
    /// Whatever keeps the whole batch from being done: all of it comes again.
    fn handle(
        &self,
        event: &mut E,
        shard: &str,
    ) -> impl Future<Output = Result<Self::Answer, HandlerError>> + Send;

    /// What becomes of records that come again. Default, and the answer of every function:
    /// [`Repeats::Counted`], the cautious one.
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
